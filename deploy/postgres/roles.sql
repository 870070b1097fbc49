-- The two roles of helloapi in PostgreSQL (15 or newer). An administrator runs this once, in the database that helloapi
-- is to use:
--
--   HELLOAPI_OWNER_PASSWORD=… HELLOAPI_SERVE_PASSWORD=… psql -d helloapi -f roles.sql
--
-- helloapi_owner owns the database and its tables. It is for `helloapi migrate`, and for the commands that change keys and plans.
-- helloapi_serve is for `helloapi serve`. It may connect, and nothing else until `SERVE_ROLE=helloapi_serve helloapi migrate`
-- gives it what serving needs: a release that brings a table says what serving may do with it.
--
-- To run it again is safe, and sets the passwords anew. -v owner=NAME -v serve=NAME names the roles otherwise, for a second
-- helloapi on the same server. Tables that another role made are handed over by REASSIGN OWNED BY that_role TO helloapi_owner.

\set ON_ERROR_STOP on
\if :{?owner}
\else
\set owner helloapi_owner
\endif
\if :{?serve}
\else
\set serve helloapi_serve
\endif
\getenv owner_password HELLOAPI_OWNER_PASSWORD
\getenv serve_password HELLOAPI_SERVE_PASSWORD
\if :{?owner_password}
\else
DO $$ BEGIN RAISE 'HELLOAPI_OWNER_PASSWORD is not set in the environment'; END $$;
\endif
\if :{?serve_password}
\else
DO $$ BEGIN RAISE 'HELLOAPI_SERVE_PASSWORD is not set in the environment'; END $$;
\endif
SELECT current_database() AS db \gset

SELECT format('CREATE ROLE %I', role) FROM unnest(ARRAY[:'owner', :'serve']) AS role
WHERE role NOT IN (SELECT rolname FROM pg_roles) \gexec
ALTER ROLE :"owner" LOGIN PASSWORD :'owner_password';
ALTER ROLE :"serve" LOGIN PASSWORD :'serve_password';

-- An administrator that is not a superuser must be a member to give the database away.
GRANT :"owner" TO CURRENT_USER;
ALTER DATABASE :"db" OWNER TO :"owner";
REVOKE ALL ON DATABASE :"db" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"db" TO :"serve";
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO :"owner";
GRANT USAGE ON SCHEMA public TO :"serve";
