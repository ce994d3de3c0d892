-- A second database, for Prefect's server, which wants trigram search.
CREATE DATABASE prefect;
\connect prefect
CREATE EXTENSION IF NOT EXISTS pg_trgm;
