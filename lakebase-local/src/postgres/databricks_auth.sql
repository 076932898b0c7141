-- The extension databricks_auth, in SQL, as Postgres loads real extensions only from its installation. An event
-- trigger creates it when a session runs CREATE EXTENSION IF NOT EXISTS databricks_auth.

-- Before Postgres 15, every role may create objects in `public`. On the platform, only the owner may.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
ALTER SCHEMA public OWNER TO pg_database_owner;

CREATE SCHEMA lakebase_local;

-- Identities of the workspace and their kinds.
CREATE TABLE lakebase_local.identity (name text PRIMARY KEY, kind text NOT NULL);

-- Runs as the superuser; the caller is the session's user. `pg_temp` is last: if unnamed, it would be first, and a
-- temporary view of the caller could replace a catalog.
CREATE FUNCTION lakebase_local.create_role(identity text, kind text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF kind IS NULL OR kind NOT IN ('USER', 'SERVICE_PRINCIPAL', 'GROUP') THEN
        RAISE EXCEPTION 'identity type must be USER, SERVICE_PRINCIPAL or GROUP'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- The owner of the database may, too: on a borrowed server it has no CREATEROLE.
    IF NOT (SELECT rolsuper OR (rolcreaterole OR caller.oid = (
                SELECT datdba FROM pg_database WHERE datname = current_database())
            ) AND NOT EXISTS (
            SELECT FROM pg_auth_members JOIN pg_roles AS native ON native.oid = roleid
            WHERE native.rolname = 'lakebase_native' AND member = caller.oid)
        FROM pg_roles AS caller WHERE rolname = session_user)
    THEN
        RAISE EXCEPTION 'permission denied to create role' USING ERRCODE = 'insufficient_privilege',
            HINT = 'Requires CREATEROLE, and a login as an identity of the workspace.';
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = identity) THEN
        RAISE EXCEPTION 'role "%" already exists', identity USING ERRCODE = 'duplicate_object';
    END IF;
    IF NOT EXISTS (SELECT FROM lakebase_local.identity AS known
        WHERE known.name = create_role.identity AND known.kind = create_role.kind)
    THEN
        RAISE EXCEPTION 'identity "%" of type % does not exist in the workspace', identity, kind
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    EXECUTE format('CREATE ROLE %I LOGIN', identity);
    -- The gateway distinguishes it from roles of plain CREATE ROLE by this setting.
    EXECUTE format('ALTER ROLE %I SET lakebase_local.kind = %L', identity, kind);
    IF %MARK% IS NOT NULL THEN
        EXECUTE format('COMMENT ON ROLE %I IS %L', identity, %MARK%);
    END IF;
END
$body$;
REVOKE ALL ON FUNCTION lakebase_local.create_role FROM PUBLIC;

-- Not SECURITY DEFINER: it checks the privileges of the caller.
CREATE FUNCTION lakebase_local.may_create_extension() RETURNS boolean
LANGUAGE sql AS 'SELECT has_database_privilege(current_database(), ''CREATE'')';

CREATE FUNCTION lakebase_local.create_extension() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF to_regnamespace('public') IS NULL THEN
        RAISE EXCEPTION 'no schema has been selected to create in' USING ERRCODE = 'invalid_schema_name';
    END IF;
    INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
        SELECT pg_nextoid('pg_extension', 'oid', 'pg_extension_oid_index'), 'databricks_auth',
            (SELECT oid FROM pg_roles WHERE rolname = session_user), 'public'::regnamespace, false, '1.0';
    CREATE FUNCTION public.databricks_create_role(identity text, kind text) RETURNS void
        LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        AS 'SELECT lakebase_local.create_role(identity, kind)';
    ALTER EXTENSION databricks_auth ADD FUNCTION public.databricks_create_role;
END
$body$;

CREATE FUNCTION lakebase_local.watch_extensions() RETURNS event_trigger
LANGUAGE plpgsql AS $body$
BEGIN
    IF current_query() ~* 'create\s+extension\s+(if\s+not\s+exists\s+)?"?databricks_auth'
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'databricks_auth')
    THEN
        IF NOT lakebase_local.may_create_extension() THEN
            RAISE EXCEPTION 'permission denied to create extension "databricks_auth"'
                USING ERRCODE = 'insufficient_privilege',
                HINT = 'Must have CREATE privilege on current database to create this extension.';
        END IF;
        IF current_query() !~* 'if\s+not\s+exists\s+"?databricks_auth' THEN
            RAISE EXCEPTION 'use CREATE EXTENSION IF NOT EXISTS databricks_auth'
                USING ERRCODE = 'feature_not_supported';
        END IF;
        PERFORM lakebase_local.create_extension();
    END IF;
END
$body$;
CREATE EVENT TRIGGER lakebase_local_extensions ON ddl_command_start
    WHEN TAG IN ('CREATE EXTENSION') EXECUTE FUNCTION lakebase_local.watch_extensions();

GRANT USAGE ON SCHEMA lakebase_local TO PUBLIC;

-- Members of an extension that every database has, so pg_dump omits them.
ALTER EXTENSION plpgsql ADD SCHEMA lakebase_local;
ALTER EXTENSION plpgsql ADD TABLE lakebase_local.identity;
ALTER EXTENSION plpgsql ADD FUNCTION lakebase_local.create_role;
ALTER EXTENSION plpgsql ADD FUNCTION lakebase_local.may_create_extension;
ALTER EXTENSION plpgsql ADD FUNCTION lakebase_local.create_extension;
ALTER EXTENSION plpgsql ADD FUNCTION lakebase_local.watch_extensions;
ALTER EXTENSION plpgsql ADD EVENT TRIGGER lakebase_local_extensions;
