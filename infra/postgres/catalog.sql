-- A role and a database for the catalog. As prefect.sql: PASSWORD_FILE=password psql -f catalog.sql
\set password `cat "${PASSWORD_FILE:-/run/secrets/catalog_password}"`
CREATE ROLE dataengine LOGIN PASSWORD :'password';
CREATE DATABASE dataengine OWNER dataengine;
REVOKE ALL ON DATABASE dataengine FROM PUBLIC;
