-- A role and a database for Prefect's server, which wants trigram search and sees nothing else. The password is what the
-- file holds: PASSWORD_FILE=password psql -f prefect.sql, as a superuser; in compose it is the secret.
\set password `cat "${PASSWORD_FILE:-/run/secrets/prefect_password}"`
CREATE ROLE prefect LOGIN PASSWORD :'password';
CREATE DATABASE prefect OWNER prefect;
REVOKE ALL ON DATABASE prefect FROM PUBLIC;
\connect prefect
CREATE EXTENSION IF NOT EXISTS pg_trgm;
