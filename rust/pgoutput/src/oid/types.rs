//! The types of PostgreSQL 14 to 18 that are decoded, each with its OID and that of its array, 0 where it has none.
//!
//! Made by `python -m tests.golden.types` from the servers' `pg_type`.
use super::{Builtin, Scalar, Shape};

pub(super) const TYPES: [(u32, u32, Builtin); 64] = [
    (16, 1000, Builtin::Scalar(Scalar::Bool)),                   // bool
    (17, 1001, Builtin::Scalar(Scalar::Bytea)),                  // bytea
    (18, 1002, Builtin::Scalar(Scalar::Char)),                   // char
    (19, 1003, Builtin::Scalar(Scalar::Text)),                   // name
    (20, 1016, Builtin::Scalar(Scalar::Int8)),                   // int8
    (21, 1005, Builtin::Scalar(Scalar::Int2)),                   // int2
    (22, 1006, Builtin::Numbers(Scalar::Int2)),                  // int2vector
    (23, 1007, Builtin::Scalar(Scalar::Int4)),                   // int4
    (25, 1009, Builtin::Scalar(Scalar::Text)),                   // text
    (26, 1028, Builtin::Scalar(Scalar::Oid)),                    // oid
    (27, 1010, Builtin::Scalar(Scalar::Tid)),                    // tid
    (28, 1011, Builtin::Scalar(Scalar::Oid)),                    // xid
    (29, 1012, Builtin::Scalar(Scalar::Oid)),                    // cid
    (30, 1013, Builtin::Numbers(Scalar::Oid)),                   // oidvector
    (114, 199, Builtin::Scalar(Scalar::Json)),                   // json
    (142, 143, Builtin::Scalar(Scalar::Text)),                   // xml
    (194, 0, Builtin::Scalar(Scalar::Text)),                     // pg_node_tree
    (600, 1017, Builtin::Scalar(Scalar::Shape(Shape::Point))),   // point
    (601, 1018, Builtin::Scalar(Scalar::Shape(Shape::Lseg))),    // lseg
    (602, 1019, Builtin::Scalar(Scalar::Shape(Shape::Path))),    // path
    (603, 1020, Builtin::Scalar(Scalar::Shape(Shape::Box))),     // box
    (604, 1027, Builtin::Scalar(Scalar::Shape(Shape::Polygon))), // polygon
    (628, 629, Builtin::Scalar(Scalar::Shape(Shape::Line))),     // line
    (650, 651, Builtin::Scalar(Scalar::Cidr)),                   // cidr
    (700, 1021, Builtin::Scalar(Scalar::Float4)),                // float4
    (701, 1022, Builtin::Scalar(Scalar::Float8)),                // float8
    (718, 719, Builtin::Scalar(Scalar::Shape(Shape::Circle))),   // circle
    (774, 775, Builtin::Scalar(Scalar::MacAddr8)),               // macaddr8
    (790, 791, Builtin::Scalar(Scalar::Money)),                  // money
    (829, 1040, Builtin::Scalar(Scalar::MacAddr)),               // macaddr
    (869, 1041, Builtin::Scalar(Scalar::Inet)),                  // inet
    (1042, 1014, Builtin::Scalar(Scalar::Text)),                 // bpchar
    (1043, 1015, Builtin::Scalar(Scalar::Text)),                 // varchar
    (1082, 1182, Builtin::Scalar(Scalar::Date)),                 // date
    (1083, 1183, Builtin::Scalar(Scalar::Time)),                 // time
    (1114, 1115, Builtin::Scalar(Scalar::Timestamp)),            // timestamp
    (1184, 1185, Builtin::Scalar(Scalar::TimestampTz)),          // timestamptz
    (1186, 1187, Builtin::Scalar(Scalar::Interval)),             // interval
    (1266, 1270, Builtin::Scalar(Scalar::TimeTz)),               // timetz
    (1560, 1561, Builtin::Scalar(Scalar::Bits)),                 // bit
    (1562, 1563, Builtin::Scalar(Scalar::Bits)),                 // varbit
    (1700, 1231, Builtin::Scalar(Scalar::Numeric)),              // numeric
    (1790, 2201, Builtin::Scalar(Scalar::Text)),                 // refcursor
    (2950, 2951, Builtin::Scalar(Scalar::Uuid)),                 // uuid
    (2970, 2949, Builtin::Scalar(Scalar::Snapshot)),             // txid_snapshot
    (3220, 3221, Builtin::Scalar(Scalar::Lsn)),                  // pg_lsn
    (3614, 3643, Builtin::Scalar(Scalar::TsVector)),             // tsvector
    (3615, 3645, Builtin::Scalar(Scalar::TsQuery)),              // tsquery
    (3802, 3807, Builtin::Scalar(Scalar::Jsonb)),                // jsonb
    (3904, 3905, Builtin::Range(Scalar::Int4)),                  // int4range
    (3906, 3907, Builtin::Range(Scalar::Numeric)),               // numrange
    (3908, 3909, Builtin::Range(Scalar::Timestamp)),             // tsrange
    (3910, 3911, Builtin::Range(Scalar::TimestampTz)),           // tstzrange
    (3912, 3913, Builtin::Range(Scalar::Date)),                  // daterange
    (3926, 3927, Builtin::Range(Scalar::Int8)),                  // int8range
    (4072, 4073, Builtin::Scalar(Scalar::Versioned)),            // jsonpath
    (4451, 6150, Builtin::Multirange(Scalar::Int4)),             // int4multirange
    (4532, 6151, Builtin::Multirange(Scalar::Numeric)),          // nummultirange
    (4533, 6152, Builtin::Multirange(Scalar::Timestamp)),        // tsmultirange
    (4534, 6153, Builtin::Multirange(Scalar::TimestampTz)),      // tstzmultirange
    (4535, 6155, Builtin::Multirange(Scalar::Date)),             // datemultirange
    (4536, 6157, Builtin::Multirange(Scalar::Int8)),             // int8multirange
    (5038, 5039, Builtin::Scalar(Scalar::Snapshot)),             // pg_snapshot
    (5069, 271, Builtin::Scalar(Scalar::Xid8)),                  // xid8
];
