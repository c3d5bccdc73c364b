-- Fills the shop on the server's side. Every value is a function of the row's number and the anchor, so that two
-- seeds with one anchor are equal. `%(anchor)s` is "now": all updated_at lie in the 90 days before it.

-- A number in [0, 1) from a row's number and the column's salt.
CREATE FUNCTION pg_temp.roll(row_number bigint, salt bigint) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (hashint8extended(row_number, salt) & 9007199254740991)::double precision / 9007199254740992;

CREATE FUNCTION pg_temp.pick(choices text[], row_number bigint, salt bigint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN choices[1 + floor(pg_temp.roll(row_number, salt) * array_length(choices, 1))::integer];

-- A moment in the 90 days before the anchor, with microseconds. Every 20th row shares its moment with others.
CREATE FUNCTION pg_temp.moment(anchor timestamptz, row_number bigint, salt bigint) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN anchor - interval '1 microsecond' * floor(1 + 7776000000000 * pg_temp.roll(
    CASE WHEN row_number %% 20 = 0 THEN -row_number / 1000 ELSE row_number END, salt))::bigint;

-- What breaks careless readers: of these the text columns get one in every few dozen rows.
CREATE FUNCTION pg_temp.nasty(row_number bigint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (ARRAY[
    '', 'NULL', 'null', '\N', '\.', ' ', '"', '""', '''', ',', 'a,"b",c', E'two\nlines', E'carriage\r\nreturn',
    E'\t', '=1+1', '@SUM(A1)', '-1', '+1', '007', '1e5', 'NaN', 'true', '2026-02-30', 'ñandú', '北京', '🚚📦',
    E'e\u0301 is not \u00e9', E'\u202Eright to left', E'zero\u200Bwidth', E'\uFEFFmark', '{"a": "b"}',
    '<b>bold</b>', '; DROP TABLE orders; --', 'back\slash', '%%s %%(name)s {}', repeat('long ', 2000)
])[1 + (row_number %% 36)::integer];

INSERT INTO customers
SELECT
    i,
    md5('customer ' || i)::uuid,
    CASE
        WHEN i %% 401 = 0 THEN 'Seán "Ace" O''Brien, Jr.'
        WHEN i %% 397 = 0 THEN E'María\nde los Ángeles 🌻'
        WHEN i %% 389 = 0 THEN 'NULL'
        ELSE pg_temp.pick('{Ana,Bruno,Chloé,Dmitri,Elif,Fatima,Günther,Hana,Iñigo,João,Kōji,Lena,Mæve,Noor}', i, 1)
             || ' ' ||
             pg_temp.pick('{García,Müller,Rossi,Nowak,Smith,Dubois,Öztürk,Sørensen,李,Silva,Kovač,Novák}', i, 2)
    END,
    CASE WHEN i %% 50 = 0 THEN NULL WHEN i %% 51 = 0 THEN '' WHEN i %% 53 = 0 THEN 'NULL'
         ELSE 'customer.' || i || '@' || pg_temp.pick('{example.com,example.org,mail.example.net}', i, 3) END,
    CASE WHEN i %% 7 = 0 THEN NULL ELSE '+34 6' || lpad(floor(pg_temp.roll(i, 4) * 1e8)::bigint::text, 8, '0') END,
    CASE WHEN i %% 11 = 0 THEN NULL ELSE date '1930-01-01' + floor(pg_temp.roll(i, 5) * 28000)::integer END,
    CASE WHEN i %% 5 = 0 THEN NULL ELSE lpad(floor(pg_temp.roll(i, 6) * 1e8)::bigint::text, 8, '0') || 'X' END,
    CASE WHEN i %% 13 = 0 THEN NULL
         ELSE 'Calle de la Luna ' || (1 + i %% 200) || CASE WHEN i %% 17 = 0 THEN E'\n2º "B"' ELSE '' END END,
    lpad(floor(pg_temp.roll(i, 7) * 1e5)::integer::text, 5, '0'),
    pg_temp.pick('{ES,DE,IT,FR,PL,PT,TR,GB}', i, 8),
    CASE WHEN i %% 9 = 0 THEN NULL WHEN i = 1 THEN 9999999999.99 WHEN i = 2 THEN -0.01
         ELSE round((pg_temp.roll(i, 9) * 10000)::numeric, 2) END,
    CASE WHEN i = 3 THEN -32768 WHEN i = 4 THEN 32767 ELSE floor(pg_temp.roll(i, 10) * 5000)::smallint END,
    CASE i %% 3 WHEN 0 THEN true WHEN 1 THEN false END,
    CASE WHEN i %% 8 = 0 THEN NULL WHEN i %% 37 = 0 THEN 'null'::jsonb
         ELSE jsonb_build_object('language', pg_temp.pick('{es,de,en}', i, 11), 'channels', '["mail", "sms"]'::jsonb,
                                 'nickname', pg_temp.nasty((pg_temp.roll(i, 16) * 3600)::bigint)) END,
    CASE WHEN i %% 6 = 0 THEN NULL WHEN i %% 10 = 0 THEN '{}'
         WHEN i %% 41 = 0 THEN ARRAY['a,b', NULL, 'NULL', '', '"q"', '{x}']
         ELSE ARRAY[pg_temp.pick('{books,garden,games}', i, 12), pg_temp.pick('{music,tools,food}', i, 13)] END,
    CASE WHEN i %% 4 = 0 THEN NULL WHEN i %% 3 = 0 THEN pg_temp.nasty((pg_temp.roll(i, 15) * 3600)::bigint)
         ELSE 'Called about order ' || i || '; asked to write to customer.' || i || '@example.com' END,
    pg_temp.moment(%(anchor)s, i, 14) - interval '400 days',
    pg_temp.moment(%(anchor)s, i, 14)
FROM generate_series(1, %(customers)s) AS i;

INSERT INTO products
SELECT
    i,
    'SKU-' || lpad(i::text, 6, '0'),
    pg_temp.pick('{Lamp,Chair,Kettle,Notebook,Bicycle,Tent}', i, 21) || ' ' || i,
    CASE WHEN i %% 5 = 0 THEN NULL ELSE pg_temp.nasty(i) END,
    round((pg_temp.roll(i, 22) * 900 + 1)::numeric, 2),
    CASE WHEN i %% 4 = 0 THEN NULL WHEN i = 1 THEN 12345678901234567890.123456789012345678
         ELSE (pg_temp.roll(i, 23) * 500)::numeric END,
    CASE WHEN i %% 6 = 0 THEN NULL ELSE (pg_temp.roll(i, 24) * 30)::real END,
    CASE WHEN i %% 7 = 0 THEN NULL ELSE floor(pg_temp.roll(i, 25) * 500)::smallint END,
    i %% 9 <> 0,
    CASE WHEN i %% 8 = 0 THEN '{}' ELSE ARRAY['new', 'a "quoted" tag', 'comma, inside'] END,
    jsonb_build_object('colour', pg_temp.pick('{red,"dark, blue",grün}', i, 26), 'sizes', jsonb_build_array(i, i + 1),
                       'ratio', 0.1, 'nothing', NULL),
    CASE WHEN i %% 10 = 0 THEN NULL ELSE json_build_object('name', 'Supplier "' || i || '"', 'vat', NULL) END,
    CASE WHEN i %% 3 = 0 THEN NULL WHEN i %% 11 = 0 THEN ''::bytea
         ELSE '\x00ff0a0d22'::bytea || decode(md5('thumbnail ' || i), 'hex') END,
    CASE WHEN i %% 12 = 0 THEN NULL ELSE make_interval(months => i %% 3, days => i %% 28, secs => i + 0.25) END,
    CASE WHEN i %% 13 = 0 THEN NULL ELSE time '00:00' + make_interval(secs => (i * 173) %% 86400 + 0.000001) END,
    date '2015-01-01' + i,
    timestamp '2015-01-01 00:00:00.123456' + make_interval(hours => i)
FROM generate_series(1, %(products)s) AS i;

INSERT INTO orders
SELECT
    i,
    1 + floor(pg_temp.roll(i, 31) * %(customers)s)::integer,
    pg_temp.pick('{new,paid,packed,shipped,shipped,shipped,returned,"on hold, see \"notes\""}', i, 32)::order_status,
    CASE WHEN i = 1 THEN 9999999999.99 WHEN i = 2 THEN -9999999999.99
         ELSE round((pg_temp.roll(i, 33) * 2000)::numeric, 2) END,
    pg_temp.pick('{EUR,USD,GBP}', i, 34),
    CASE WHEN i %% 10 = 0 THEN NULL WHEN i = 3 THEN 5e-324 WHEN i = 4 THEN 1.7976931348623157e308 WHEN i = 5 THEN 0.1
         ELSE 0.5 + pg_temp.roll(i, 35) END,
    CASE WHEN i %% 4 = 0 THEN NULL ELSE (pg_temp.roll(i, 36) * 0.3)::real END,
    2,
    i %% 20 = 0,
    CASE WHEN i %% 20 = 0 THEN pg_temp.nasty(i / 20) END,
    md5('order ' || i)::uuid,
    CASE WHEN i %% 15 = 0 THEN NULL WHEN i %% 14 = 0 THEN ('2001:db8::' || to_hex(i %% 65535))::inet
         WHEN i %% 13 = 0 THEN '10.1.0.0/16'::inet
         ELSE ('192.0.2.' || i %% 256)::inet END,
    (pg_temp.moment(%(anchor)s, i, 37) AT TIME ZONE 'UTC')::date,
    CASE WHEN i %% 3 = 0 THEN NULL ELSE time '08:00' + make_interval(mins => (i %% 24)::integer * 30) END,
    CASE WHEN i %% 5 = 0 THEN NULL ELSE make_interval(hours => (i %% 72)::integer, secs => 0.5) END,
    CASE WHEN i %% 6 = 0 THEN NULL ELSE ARRAY[(i %% 900)::integer, NULL, (i %% 70)::integer] END,
    CASE WHEN i %% 9 = 0 THEN NULL
         ELSE json_build_object('agent', 'Mozilla/5.0 ("' || i %% 97 || '")', 'retries', i %% 4) END,
    pg_temp.moment(%(anchor)s, i, 37) - make_interval(mins => (i %% 10000)::integer),
    pg_temp.moment(%(anchor)s, i, 37),
    CASE WHEN i %% 50 = 0 THEN pg_temp.moment(%(anchor)s, i, 37) END
FROM generate_series(1, %(orders)s) AS i;

INSERT INTO order_items
SELECT
    i,
    line,
    1 + floor(pg_temp.roll(i * 2 + line, 41) * %(products)s)::integer,
    1 + floor(pg_temp.roll(i * 2 + line, 42) * 9)::integer,
    round((pg_temp.roll(i * 2 + line, 43) * 900)::numeric, 4),
    CASE WHEN (i + line) %% 4 = 0 THEN (pg_temp.roll(i * 2 + line, 44) * 0.5)::real END,
    CASE WHEN (i + line) %% 25 = 0 THEN pg_temp.nasty((i + line) / 25) END,
    pg_temp.moment(%(anchor)s, i, 37)
FROM generate_series(1, %(orders)s) AS i, generate_series(1, 2) AS line;

SELECT setval(pg_get_serial_sequence('customers', 'customer_id'), %(customers)s);
SELECT setval(pg_get_serial_sequence('orders', 'order_id'), %(orders)s);

CREATE INDEX customers_updated_at ON customers (updated_at);
CREATE INDEX orders_updated_at ON orders (updated_at);
CREATE INDEX order_items_updated_at ON order_items (updated_at);

DROP FUNCTION pg_temp.nasty, pg_temp.moment, pg_temp.pick, pg_temp.roll;
