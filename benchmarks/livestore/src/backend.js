/** LiveStore's own sync backend, as its documentation sets it up. */

import { makeDurableObject, makeWorker } from "@livestore/sync-cf/cf-worker";

export class SyncBackendDO extends makeDurableObject() {}

export default makeWorker({ syncBackendBinding: "SYNC_BACKEND_DO" });
