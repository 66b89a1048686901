-- What may run when nothing in a statement says so. trace_ids counts how often
-- it did.
CREATE SEQUENCE trace_ids;
CREATE TABLE trace (at int);
CREATE FUNCTION writes() RETURNS int LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.trace VALUES (1); RETURN 1; END';
CREATE FUNCTION app.writes_too() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN PERFORM public.writes(); RETURN 1; END';
CREATE FUNCTION lies(int) RETURNS int LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS 'BEGIN PERFORM nextval(''public.trace_ids''); RETURN $1; END';
CREATE FUNCTION lies2(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT public.lies($1) + $2';
CREATE FUNCTION lies_of(customers) RETURNS int LANGUAGE sql STABLE AS 'SELECT public.lies($1.id)';
CREATE FUNCTION note(customers) RETURNS int LANGUAGE sql STABLE AS 'SELECT public.lies($1.id)'; -- another table has that column
CREATE FUNCTION pg_catalog.isfinite(int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT public.lies($1) > 0'; -- a harmless name
CREATE FUNCTION pg_catalog.newcomer() RETURNS int LANGUAGE sql AS 'SELECT public.writes()';
INSERT INTO orders VALUES (1, 1, 10, 'a', true), (2, 2, 20, 'b', false);
INSERT INTO customers VALUES (1, 'a@example.com'), (2, 'b@example.com');
SELECT nextval('order_ids');
SELECT lo_from_bytea(4242, 'x');

CREATE FUNCTION equal_lies(int, int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT public.lies($1) = $2';
CREATE OPERATOR ==== (FUNCTION = equal_lies, LEFTARG = int, RIGHTARG = int);
CREATE OPERATOR <<>> (FUNCTION = lies, RIGHTARG = int);
CREATE AGGREGATE agg_lies (int) (SFUNC = lies2, STYPE = int, INITCOND = '0');
CREATE FUNCTION ordered_final(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE AGGREGATE ordered_lies (ORDER BY int) (SFUNC = lies2, STYPE = int, INITCOND = '0', FINALFUNC = ordered_final);

CREATE DOMAIN checked AS int CHECK (lies(VALUE) > 0);
CREATE DOMAIN rechecked AS checked;
CREATE TYPE pair AS (a checked, b int);
CREATE TYPE nested AS (p pair);
CREATE TYPE harmless_pair AS (a nodomain, b mood);
CREATE TABLE held (c checked, d int);
CREATE TABLE holder (h pair);
CREATE TYPE feeling AS ENUM ('good', 'bad');
CREATE TABLE feelings (f feeling);
INSERT INTO feelings VALUES ('good');
CREATE TABLE machines (m macaddr8);
INSERT INTO machines VALUES ('08:00:2b:01:02:03:04:05');
CREATE FUNCTION feeling_mac(feeling) RETURNS macaddr8 LANGUAGE sql IMMUTABLE AS $$ SELECT '08:00:2b:01:02:03:04:05'::macaddr8 FROM public.lies(1) $$;
CREATE CAST (feeling AS macaddr8) WITH FUNCTION feeling_mac(feeling) AS IMPLICIT;
CREATE FUNCTION customer_circle(customers) RETURNS circle LANGUAGE sql IMMUTABLE AS $$ SELECT '<(1,1),1>'::circle FROM public.lies(1) $$;
CREATE CAST (customers AS circle) WITH FUNCTION customer_circle(customers);

CREATE VIEW v_plain AS SELECT id, lower(note) AS note, count(*) OVER (ORDER BY total) FROM orders WHERE paid IS NOT NULL;
CREATE VIEW v_writes AS SELECT writes() AS w;
CREATE VIEW v_deep AS SELECT * FROM (SELECT * FROM v_writes) s;
CREATE VIEW v_nextval AS SELECT nextval('trace_ids');
CREATE VIEW v_notify AS SELECT pg_notify('c', 'x') IS NULL AS n;
CREATE VIEW v_role AS SELECT set_config('role', 'pg_monitor', false);
CREATE VIEW v_operator AS SELECT id FROM orders WHERE id ==== 1;
CREATE VIEW v_aggregate AS SELECT agg_lies(id) FROM orders;
CREATE VIEW v_window AS SELECT agg_lies(id) OVER (ORDER BY id) FROM orders;
CREATE VIEW v_ordered AS SELECT ordered_lies() WITHIN GROUP (ORDER BY id) FROM orders;
CREATE VIEW v_domain AS SELECT id::checked FROM orders;
CREATE VIEW v_rechecked AS SELECT id::rechecked FROM orders;
CREATE VIEW v_array AS SELECT ARRAY[id]::checked[] FROM orders;
CREATE VIEW v_row AS SELECT ROW(id, 1)::pair FROM orders;
CREATE VIEW v_enum AS SELECT 'x'::mood AS m, ARRAY['x']::mood[] AS l;
CREATE VIEW v_cast AS SELECT c::circle FROM customers c;
CREATE VIEW v_limit AS SELECT id FROM orders LIMIT writes();
CREATE VIEW v_lateral AS SELECT w FROM orders, LATERAL (SELECT writes() AS w OFFSET 0) l;
CREATE VIEW v_function AS SELECT * FROM writes() AS w;
CREATE VIEW v_case AS SELECT CASE WHEN id > 0 THEN lies(id) END FROM orders;
CREATE VIEW v_own AS SELECT isfinite(id) FROM orders;
CREATE VIEW v_lock AS SELECT id FROM orders FOR UPDATE;
CREATE VIEW v_passwords AS SELECT rolname, rolpassword FROM pg_authid;
CREATE VIEW v_settings AS SELECT * FROM pg_settings;
CREATE MATERIALIZED VIEW m_writes AS SELECT writes() AS w;

CREATE TABLE guarded (id int);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY guard ON guarded USING (lies(id) > 0);
CREATE VIEW v_guarded AS SELECT * FROM guarded;
CREATE TABLE fenced (id int);
ALTER TABLE fenced ENABLE ROW LEVEL SECURITY;
CREATE POLICY fence ON fenced USING (current_user = 'x');

CREATE TABLE busy (id int DEFAULT writes(), twice int GENERATED ALWAYS AS (lies(id)) STORED CHECK (lies(twice) > 0));
CREATE INDEX busy_lies ON busy (lies(id)) WHERE lies(id) > 0;
CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM public.writes(); RETURN NEW; END';
CREATE TRIGGER fire BEFORE INSERT OR UPDATE OR DELETE ON busy FOR EACH ROW EXECUTE FUNCTION fires();
CREATE TABLE inbox (id int);
CREATE RULE redirect AS ON INSERT TO inbox DO INSTEAD DELETE FROM trace;
CREATE FUNCTION fires_on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM public.writes(); END';
CREATE EVENT TRIGGER on_ddl ON ddl_command_end WHEN TAG IN ('COMMENT') EXECUTE FUNCTION fires_on_ddl();

CREATE TABLE parts (id int) PARTITION BY RANGE (id);
CREATE TABLE part1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE parent (id int);
CREATE TABLE child () INHERITS (parent);
CREATE PROCEDURE proc() LANGUAGE plpgsql AS 'BEGIN PERFORM public.writes(); END';
