"""The tables that are read: made by SQL, the same on each machine."""

import psycopg

#: TPC-H's `lineitem`, near enough: 16 columns, numerics and dates, with a number as key before them; some 140 bytes a row as
#: CSV.
#: Source: TPC Benchmark H, revision 3.0.1, 1.4.1 and 4.2.3.
LINEITEM = """
CREATE TABLE lineitem AS
SELECT i                                            AS l_id,
       i / 4 + 1                                    AS l_orderkey,
       (i * 7919 % 200000 + 1)::bigint              AS l_partkey,
       (i * 104729 % 10000 + 1)::bigint             AS l_suppkey,
       i % 4 + 1                                    AS l_linenumber,
       (i % 50 + 1)::numeric(15,2)                  AS l_quantity,
       (900 + i * 31 % 10000000 / 100.0)::numeric(15,2) AS l_extendedprice,
       (i % 11 / 100.0)::numeric(15,2)              AS l_discount,
       (i % 9 / 100.0)::numeric(15,2)               AS l_tax,
       substr('RAN', (i % 3 + 1)::integer, 1)::char(1) AS l_returnflag,
       substr('OF', (i % 2 + 1)::integer, 1)::char(1) AS l_linestatus,
       date '1992-01-02' + (i * 13 % 2500)::integer AS l_shipdate,
       date '1992-01-31' + (i * 17 % 2500)::integer AS l_commitdate,
       date '1992-01-12' + (i * 19 % 2500)::integer AS l_receiptdate,
       (ARRAY['DELIVER IN PERSON', 'COLLECT COD', 'NONE', 'TAKE BACK RETURN'])[i % 4 + 1]::char(25) AS l_shipinstruct,
       (ARRAY['REG AIR', 'AIR', 'RAIL', 'SHIP', 'TRUCK', 'MAIL', 'FOB'])[i % 7 + 1]::char(10) AS l_shipmode,
       substr('carefully final deposits, "quickly" express accounts sleep; slyly regular', (i % 30 + 1)::integer,
              (i % 33 + 10)::integer)::varchar(44)  AS l_comment
FROM generate_series(0, {last}::bigint) AS i
"""

#: The same in MariaDB, whose sequence engine counts.
LINEITEM_OF_MARIADB = """
CREATE TABLE lineitem (l_id BIGINT PRIMARY KEY) ENGINE = InnoDB AS
SELECT CAST(seq AS SIGNED)                          AS l_id,
       CAST(seq DIV 4 + 1 AS SIGNED)                AS l_orderkey,
       CAST(seq * 7919 % 200000 + 1 AS SIGNED)      AS l_partkey,
       CAST(seq * 104729 % 10000 + 1 AS SIGNED)     AS l_suppkey,
       CAST(seq % 4 + 1 AS SIGNED)                  AS l_linenumber,
       CAST(seq % 50 + 1 AS DECIMAL(15,2))          AS l_quantity,
       CAST(900 + seq * 31 % 10000000 / 100 AS DECIMAL(15,2)) AS l_extendedprice,
       CAST(seq % 11 / 100 AS DECIMAL(15,2))        AS l_discount,
       CAST(seq % 9 / 100 AS DECIMAL(15,2))         AS l_tax,
       CAST(substr('RAN', seq % 3 + 1, 1) AS CHAR(1)) AS l_returnflag,
       CAST(substr('OF', seq % 2 + 1, 1) AS CHAR(1)) AS l_linestatus,
       DATE_ADD(DATE '1992-01-02', INTERVAL seq * 13 % 2500 DAY) AS l_shipdate,
       DATE_ADD(DATE '1992-01-31', INTERVAL seq * 17 % 2500 DAY) AS l_commitdate,
       DATE_ADD(DATE '1992-01-12', INTERVAL seq * 19 % 2500 DAY) AS l_receiptdate,
       CAST(elt(seq % 4 + 1, 'DELIVER IN PERSON', 'COLLECT COD', 'NONE', 'TAKE BACK RETURN') AS CHAR(25))
                                                    AS l_shipinstruct,
       CAST(elt(seq % 7 + 1, 'REG AIR', 'AIR', 'RAIL', 'SHIP', 'TRUCK', 'MAIL', 'FOB') AS CHAR(10)) AS l_shipmode,
       CAST(substr('carefully final deposits, "quickly" express accounts sleep; slyly regular',
                   seq % 30 + 1, seq % 33 + 10) AS CHAR(44)) AS l_comment
FROM seq_0_to_{last}
"""

#: What a CRM has: few numbers, much text, some 370 bytes a row as CSV.
CONTACT = """
CREATE TABLE contact AS
SELECT i AS id,
       'Given ' || i % 5000 AS first_name,
       'Family ' || i * 7919 % 90000 AS last_name,
       'Given.' || i % 5000 || '.' || i || '@Mail' || i % 97 || '.example.org' AS email,
       '+39 3' || lpad((i * 7919 % 1000000000)::text, 9, '0') AS phone,
       i % 300 || ', Via Example, Building ' || i % 40 AS street,
       'City ' || i % 8000 AS city,
       (ARRAY['IT', 'ES', 'FR', 'DE'])[i % 4 + 1] AS country,
       'Company ' || i % 60000 || ' of "Limited" Liability' AS company,
       timestamptz '2020-01-01 00:00+00' + i * interval '37 seconds' AS updated_at,
       (i % 100000 / 100.0)::numeric(12,2) AS credit,
       repeat('Notes, some of them long; ', (i % 9 + 3)::integer) AS notes
FROM generate_series(0, {last}::bigint) AS i
"""


def make_table(dsn: str, statement: str, *, row_count: int) -> None:
    """Make a table in PostgreSQL, and leave nothing to be done by the server while it is read."""
    name = statement.split()[2]
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.format(last=row_count - 1))
        connection.execute(f"VACUUM (FREEZE, ANALYZE) {name}")


#: The columns of each table, as a contract has them.
COLUMNS = {
    "lineitem": {
        **dict.fromkeys(["l_id", "l_orderkey", "l_partkey", "l_suppkey", "l_linenumber"], "int64"),
        **dict.fromkeys(["l_quantity", "l_extendedprice", "l_discount", "l_tax"], "decimal(15,2)"),
        **dict.fromkeys(["l_returnflag", "l_linestatus"], "string"),
        **dict.fromkeys(["l_shipdate", "l_commitdate", "l_receiptdate"], "date"),
        **dict.fromkeys(["l_shipinstruct", "l_shipmode", "l_comment"], "string"),
    },
    "contact": {
        "id": "int64",
        **dict.fromkeys(["first_name", "last_name", "email", "phone", "street", "city"], "string"),
        **dict.fromkeys(["country", "company"], "string"),
        "updated_at": "timestamptz",
        "credit": "decimal(12,2)",
        "notes": "string",
    },
}
