"""What SQL from users may contain: lists of functions, types and node keys. What is not on a list is refused.

What belongs here: plain sets of names. The rules that need to look at arguments are in ``size`` and ``statement``.

Left out for what they do to the process: ``json_contains`` and the type ``variant`` end it on JSON that is nested
300,000 deep; ``json_pretty`` makes 100 MB of JSON nested 5,000 deep; ``bignum`` takes minutes over long numbers.
"""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


AGGREGATES = _names("""
    any_value approx_count_distinct approx_quantile approx_top_k arbitrary arg_max arg_max_null arg_min
    arg_min_null argmax argmin array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count count_if
    count_star countif covar_pop covar_samp entropy favg first fsum geomean geometric_mean group_concat
    histogram histogram_exact json_group_array json_group_object json_group_structure kahan_sum kurtosis
    kurtosis_pop last list listagg mad max max_by mean median min min_by mode product quantile quantile_cont
    quantile_disc regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy
    sem skewness stddev stddev_pop stddev_samp string_agg sum sumkahan var_pop var_samp variance wavg
    weighted_avg
""")

WINDOWS = _names("""
    row_number rank dense_rank rank_dense percent_rank cume_dist ntile lag lead first_value last_value nth_value
    first last fill
""")

COLLECTING = _names("""
    approx_top_k array_agg group_concat histogram histogram_exact json_group_array json_group_object
    json_group_structure list listagg string_agg
""")
"""Aggregates whose result grows with the number of rows."""

TOP = dict.fromkeys(_names("max min"), 1) | dict.fromkeys(
    _names("arg_max arg_max_null arg_min arg_min_null argmax argmin max_by min_by"), 2
)
"""Aggregates that give a list of the best when they are asked for how many, with more arguments than this."""

SMALL = _names("""
    % * ** - / // < <= = > >= != <> ~~ !~~ ~~* !~~* ~~~ ^@ !~ @ && @> <@ <-> <=> ^ abs acos acosh age
    approx_count_distinct array_contains array_cosine_distance array_cosine_similarity array_distance
    array_dot_product array_has array_has_all array_has_any array_indexof array_inner_product array_length
    array_negative_dot_product array_negative_inner_product array_position ascii asin asinh atan atan2 atanh avg
    bit_count bit_length bool_and bool_or cardinality cbrt ceil ceiling century char_length character_length
    contains corr cos cosh cot count count_if count_star countif covar_pop covar_samp cume_dist current_date
    current_localtime current_localtimestamp date_add date_diff date_part date_sub date_trunc datediff datepart
    datesub datetrunc day dayname dayofmonth dayofweek dayofyear days_in_month decade degrees dense_rank divide
    ends_with entropy enum_code epoch epoch_ms epoch_ns epoch_us era even exp factorial favg fdiv floor fmod
    fsum gamma gcd gen_random_uuid geomean geometric_mean get_current_time get_current_timestamp
    greatest_common_divisor hamming hash hour ilike_escape instr isfinite isinf isnan isodow isoyear jaccard
    jaro_similarity jaro_winkler_similarity json_array_length json_exists json_type json_valid julian kahan_sum
    kurtosis kurtosis_pop last_day lcm least_common_multiple len length length_grapheme levenshtein lgamma
    like_escape list_avg list_any_value list_bit_and list_bit_or list_bit_xor list_bool_and list_bool_or
    list_contains list_cosine_distance list_cosine_similarity list_count list_distance list_dot_product
    list_entropy list_has list_has_all list_has_any list_indexof list_inner_product list_kurtosis list_mad
    list_median list_position list_product list_sem list_skewness list_stddev_pop list_stddev_samp list_sum
    list_unique list_var_pop list_var_samp ln log log10 log2 mad make_date make_time make_timestamp
    make_timestamp_ms make_timestamp_ns make_timestamptz map_contains map_contains_entry map_contains_value md5
    md5_number md5_number_lower md5_number_upper mean microsecond millennium millisecond minute mismatches mod
    month monthname multiply nanosecond nextafter normalized_interval not_ilike_escape not_like_escape now ntile
    octet_length ord percent_rank pi position pow power prefix product quarter radians random rank rank_dense
    regexp_full_match regexp_matches regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx
    regr_sxy regr_syy round round_even roundbankers row_number second sem sha1 sha256 sign signbit sin sinh
    skewness sqrt starts_with stddev stddev_pop stddev_samp strlen strpos strptime struct_contains struct_has
    struct_indexof struct_position subtract suffix sum sumkahan tan tanh time_bucket timezone timezone_hour
    timezone_minute to_centuries to_days to_decades to_hours to_microseconds to_millennia to_milliseconds
    to_minutes to_months to_quarters to_seconds to_timestamp to_weeks to_years today transaction_timestamp trunc
    try_strptime typeof unicode uuid uuid_extract_timestamp uuid_extract_version uuidv4 uuidv7 var_pop var_samp
    variance wavg week weekday weekofyear weighted_avg year yearweek bar ago format_bytes
    formatreadabledecimalsize formatreadablesize pg_size_pretty parse_formatted_bytes isoyear grouping to_base
    chr
""")
"""Functions whose result is small whatever they are given: numbers, times, booleans, digests."""

STEADY = _names("""
    & | ~ << >> xor -> array_distinct array_extract array_grade_up array_intersect array_pop_back
    array_pop_front array_reverse array_reverse_sort array_slice array_sort array_unique array_value array_where
    arbitrary any_value approx_quantile arg_max arg_max_null arg_min arg_min_null argmax argmin bit_and bit_or
    bit_xor constant_or_null element_at enum_first enum_last first first_value fill flatten from_base64 unbin
    unhex from_hex from_binary decode grade_up greatest histogram_values if ifnull icu_sort_key json_extract
    json_extract_path json_extract_path_text json_extract_string json_keys json_remove json_strip_nulls
    json_structure json_value lag last last_value lcase lead least left left_grapheme list_approx_count_distinct
    list_distinct list_element list_extract list_first list_grade_up list_histogram list_intersect list_last
    list_max list_min list_mode list_reverse list_reverse_sort list_slice list_sort list_where lower ltrim
    map_entries map_extract map_extract_value map_from_entries map_keys map_values max max_by median min min_by
    mode nfc_normalize nth_value nullif quantile quantile_cont quantile_disc regexp_extract reverse right
    right_grapheme rtrim split_part strip_accents struct_extract struct_extract_at struct_keys struct_values
    substr substring substring_grapheme trim ucase union_extract union_tag union_value upper parse_dirname
    parse_dirpath parse_filename parse_path unnest ->> json_normalize translate
""")
"""Functions whose result is no larger than the largest of their arguments, give or take a small factor."""

GROWING = _names("""
    || + add array_append array_cat array_concat array_prepend array_push_back array_push_front array_to_json
    array_zip base64 bin concat concat_ws encode hex json json_array json_deep_merge json_insert
    json_merge_patch json_object json_quote json_replace json_set list_append list_cat list_concat list_pack
    list_prepend list_value list_zip map map_concat regexp_escape regexp_extract_all regexp_split_to_array row
    row_to_json split str_split str_split_regex strftime string_split string_split_regex string_to_array
    struct_concat struct_insert struct_pack struct_update to_base64 to_binary to_hex to_json url_decode
    url_encode
""")
"""Functions whose result can be as large as all of their arguments together, or a small multiple of it."""

FACTORS = {
    "array_to_json": 6, "base64": 2, "bin": 64, "encode": 4, "hex": 16, "json_array": 6, "json_object": 6,
    "json_quote": 6, "regexp_escape": 4, "regexp_extract_all": 8, "regexp_split_to_array": 8,
    "row_to_json": 6, "split": 8, "str_split": 8, "str_split_regex": 8, "strftime": 30, "string_split": 8,
    "string_split_regex": 8, "string_to_array": 8, "to_base64": 2, "to_binary": 64, "to_hex": 16,
    "to_json": 6, "url_encode": 3,
}  # fmt: skip
"""How many times as large as its arguments a growing function's result can be."""

SPECIAL = _names("""
    aggregate array_aggr array_aggregate array_resize array_to_string array_to_string_comma_default format
    from_json from_json_strict generate_series json_transform json_transform_strict list_aggr list_aggregate
    list_resize list_string_agg lpad printf range regexp_replace repeat replace rpad
""")
"""Functions of which ``size`` looks at the arguments."""

INTERVALS = _names("""
    to_centuries to_days to_decades to_hours to_microseconds to_millennia to_milliseconds to_minutes to_months
    to_quarters to_seconds to_weeks to_years
""")
"""Functions that make an interval of a number; ``interval 1 day`` is one of them."""

HANDING_ON = AGGREGATES | _names("""
    array_extract element_at lag lead list_element list_extract list_first list_last list_pack list_value
    map_extract_value nth_value first_value last_value row struct_extract struct_extract_at struct_pack unnest
""")
"""Functions that point into their arguments and copy nothing, or copy it where ``memory_limit`` holds."""

MAPPING = _names("apply array_apply array_transform list_apply list_transform")
FILTERING = _names("array_filter filter list_filter")
REDUCING = _names("array_reduce list_reduce reduce")
LAMBDAS = MAPPING | FILTERING | REDUCING
"""Functions whose second argument is a lambda."""

JSON_PATHS = _names("""
    -> ->> json_array_length json_exists json_extract json_extract_path json_extract_path_text
    json_extract_string json_keys json_remove json_type json_value
""")
"""Functions whose second argument is a path into JSON."""

REGULAR_EXPRESSIONS = _names("""
    regexp_extract regexp_extract_all regexp_full_match regexp_matches regexp_replace regexp_split_to_array
    str_split_regex string_split_regex
""")
"""Functions whose second argument is a regular expression."""

FUNCTIONS = AGGREGATES | WINDOWS | SMALL | STEADY | GROWING | SPECIAL | LAMBDAS
TABLE_FUNCTIONS = _names("range generate_series unnest")

LONG_TYPES = _names("binary bit bitstring blob bpchar bytea char json nvarchar string text varbinary varchar")
NESTED_TYPES = _names("array list map row struct union")
TYPES = (
    LONG_TYPES
    | NESTED_TYPES
    | _names("""
    bigint bool boolean date datetime dec decimal double enum float float4 float8 hugeint int int1 int128 int16
    int2 int32 int4 int64 int8 integer integral interval logical long null numeric oid real short signed
    smallint time timestamp timestamp_ms timestamp_ns timestamp_s timestamp_us timestamptz timetz tinyint
    ubigint uhugeint uint128 uint16 uint32 uint64 uint8 uinteger usmallint utinyint uuid
""")
    | {"timestamp with time zone", "time with time zone"}
)

OPERATORS = _names("""
    ARRAY_CONSTRUCTOR ARRAY_EXTRACT ARRAY_SLICE COMPARE_IN COMPARE_NOT_IN GROUPING_FUNCTION OPERATOR_COALESCE
    OPERATOR_IS_NOT_NULL OPERATOR_IS_NULL OPERATOR_NOT OPERATOR_NULLIF OPERATOR_TRY OPERATOR_UNPACK
    STRUCT_EXTRACT
""")

_FUNCTION = "function_name schema catalog qualified_name distinct arguments is_legacy_function_call"

KEYS = {
    # expressions, by class
    "BETWEEN": _names("input lower upper"),
    "CASE": _names("case_checks else_expr"),
    "CAST": _names("child try_cast type_expr"),
    "COLLATE": _names("child collation"),
    "COLUMN_REF": _names("column_names"),
    "COMPARISON": _names("left right"),
    "CONJUNCTION": _names("children"),
    "CONSTANT": _names("literal"),
    "FUNCTION": _names(_FUNCTION + " filter order_bys is_operator"),
    "LAMBDA": _names("lhs expr syntax_type"),
    "OPERATOR": _names("children"),
    "PARAMETER": _names("identifier"),
    "POSITIONAL_REFERENCE": _names("index"),
    "STAR": _names("relation_name exclude_list replace_list columns expr qualified_exclude_list rename_list"),
    "SUBQUERY": _names("subquery_type subquery child comparison_type"),
    "TYPE": _names("type_name children catalog schema qualified_name"),
    "WINDOW": _names(
        _FUNCTION + " partitions orders start end start_expr end_expr offset_expr default_expr ignore_nulls"
        " has_ignore_nulls filter_expr exclude_clause arg_orders"
    ),
    # queries, by type
    "SELECT_NODE": _names(
        "modifiers cte_map select_list from_table where_clause group_expressions group_sets aggregate_handling having"
        " sample qualify"
    ),
    "SET_OPERATION_NODE": _names("modifiers cte_map setop_type setop_all children"),
    "RECURSIVE_CTE_NODE": _names("modifiers cte_map cte_name union_all left right aliases"),
    # what stands after FROM, by type; with TABLE_ before names that expressions have too
    "EMPTY": _names(""),
    "BASE_TABLE": _names("schema_name table_name catalog_name column_name_alias qualified_name sample"),
    "EXPRESSION_LIST": _names("values expected_names column_name_alias sample"),
    "JOIN": _names(
        "left right condition join_type ref_type using_columns is_implicit nearest_count nearest_order_type"
        " nearest_approx delim_flipped sample"
    ),
    "PIVOT": _names("source aggregates unpivot_names pivots groups include_nulls column_name_alias sample"),
    "TABLE_SUBQUERY": _names("subquery column_name_alias sample"),
    "TABLE_FUNCTION": _names("function column_name_alias with_ordinality sample"),
    # modifiers, by type
    "DISTINCT_MODIFIER": _names("distinct_on_targets"),
    "LIMIT_MODIFIER": _names("limit offset limit_type"),
    "ORDER_MODIFIER": _names("orders"),
}
"""Which keys each node of DuckDB's statement tree may have, besides those that every node has."""

COMMON = _names("class type alias query_location query_location_length")

PARTS = {
    "argument": _names("name expression"),
    "case": _names("when_expr then_expr"),
    "cte": _names("aliases materialized query_node"),
    "order": _names("type null_order expression"),
    "pivot": _names("pivot_expressions unpivot_names entries groups"),
    "pivot entry": _names("star_expr alias"),
    "sample": _names("sample_size is_percentage method seed repeatable sample_rate"),
    "subquery": _names("node"),
}
"""Which keys the parts of nodes may have that are no nodes themselves."""

HINTS = {
    "SHOW_REF": "SHOW, DESCRIBE and SUMMARIZE are not available here",
    "DELETE_QUERY_NODE": "DELETE changes data",
    "INSERT_QUERY_NODE": "INSERT changes data",
    "UPDATE_QUERY_NODE": "UPDATE changes data",
    "MERGE_QUERY_NODE": "MERGE changes data",
    "COPY_QUERY_NODE": "COPY writes files",
    "at_clause": "AT (time travel) is not available here",
    "key_targets": "USING KEY is not available here",
    "pivot_enum": "PIVOT over an enum type is not available here; write its values out",
    "DEFAULT": "DEFAULT is not available here",
}
"""What to say of nodes and keys that are on no list."""

FUNCTION_HINTS = {
    "read_": "files cannot be read",
    "parquet_": "files cannot be read",
    "sniff_": "files cannot be read",
    "glob": "files cannot be listed",
    "query": "write the query itself, or a subquery",
    "duckdb_": "the system's own tables are out of reach",
    "pragma_": "the system's own tables are out of reach",
    "pg_": "the system's own tables are out of reach",
    "nextval": "sequences are out of reach; row_number() over () counts rows",
    "currval": "sequences are out of reach; row_number() over () counts rows",
    "json_contains": "use json_extract, json_exists or list_contains",
    "json_pretty": "format the JSON where it is shown",
    "json_each": "unnest(json_extract(…, '$[*]')) gives the elements, unnest(json_keys(…)) the keys",
    "json_tree": "unnest(json_extract(…, '$[*]')) gives the elements, unnest(json_keys(…)) the keys",
    "current_setting": "settings are out of reach",
    "getenv": "the environment is out of reach",
    "getvariable": "variables are out of reach; pass a parameter",
    "sleep": "",
}
"""What to say of functions that are on no list, by how their names begin."""
