-- Tables that are elsewhere, or are a program. OUT is a folder of the server's.
CREATE EXTENSION file_fdw;
CREATE EXTENSION dblink;
CREATE EXTENSION xml2;
CREATE EXTENSION tablefunc;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE ft_program (x text) SERVER files OPTIONS (program 'echo x >> OUT/program; echo 1');
CREATE VIEW v_foreign AS SELECT * FROM ft_program;
CREATE FOREIGN TABLE part2 PARTITION OF parts FOR VALUES FROM (10) TO (20) SERVER files OPTIONS (program 'echo x >> OUT/program; echo 11');
CREATE FOREIGN TABLE far_child () INHERITS (child) SERVER files OPTIONS (program 'echo x >> OUT/program; echo 11');
