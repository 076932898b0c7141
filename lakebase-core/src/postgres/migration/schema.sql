-- All objects of a schema as (schema, relation, kind, name, definition). `relation` is the group: a table with its
-- parts, a function, a type. The search path is pg_catalog, so that names in definitions are qualified.
WITH extension AS (
    SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), namespace AS (
    SELECT oid, nspname AS schema, nspowner, nspacl FROM pg_namespace
    WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
      AND ('pg_namespace'::regclass, oid) NOT IN (SELECT classid, objid FROM extension)
), relation AS (
    SELECT c.*, n.schema, CASE relkind
        WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence'
        WHEN 'f' THEN 'foreign table' WHEN 'c' THEN 'type' ELSE 'table' END AS kind
    FROM pg_class c JOIN namespace n ON n.oid = relnamespace
    WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c') AND relpersistence <> 't'
      AND ('pg_class'::regclass, c.oid) NOT IN (SELECT classid, objid FROM extension)
      -- The sequence of an identity column is part of the column.
      AND NOT (relkind = 'S' AND EXISTS (SELECT FROM pg_depend
          WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'i'))
), routine AS (
    SELECT p.*, n.schema, format('%s(%s)', proname, pg_get_function_identity_arguments(p.oid)) AS signature,
        CASE prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END AS kind
    FROM pg_proc p JOIN namespace n ON n.oid = pronamespace
    WHERE ('pg_proc'::regclass, p.oid) NOT IN (SELECT classid, objid FROM extension)
      -- The constructors of a range.
      AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'i')
), type AS (
    SELECT t.*, n.schema, CASE typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' ELSE 'range' END AS kind
    FROM pg_type t JOIN namespace n ON n.oid = typnamespace
    WHERE typtype IN ('e', 'd', 'r') AND ('pg_type'::regclass, t.oid) NOT IN (SELECT classid, objid FROM extension)
), securable AS (
    SELECT schema, '' AS relation, '' AS column, 'n'::"char" AS class, nspowner AS owner, nspacl AS acl FROM namespace
    UNION ALL SELECT schema, relname, '', CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner, relacl
    FROM relation WHERE relkind <> 'c'
    UNION ALL SELECT schema, relname, attname, 'c', relowner, attacl
    FROM relation r JOIN pg_attribute ON attrelid = r.oid WHERE attacl IS NOT NULL AND NOT attisdropped
    UNION ALL SELECT schema, signature, '', 'f', proowner, proacl FROM routine
    UNION ALL SELECT schema, typname, '', 'T', typowner, typacl FROM type
), privilege AS (
    SELECT schema, relation, "column", class, is_default, grantee, string_agg(
        privilege_type || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END,
        ', ' ORDER BY privilege_type, is_grantable) AS privileges
    FROM securable s, LATERAL (
        SELECT DISTINCT false AS is_default, grantee, privilege_type, is_grantable
        FROM aclexplode(coalesce(acl, acldefault(class, owner)))
        UNION ALL SELECT true, grantee, privilege_type, is_grantable FROM aclexplode(acldefault(class, owner))) e
    GROUP BY schema, relation, "column", class, is_default, grantee
)
SELECT schema::text, ''::text, 'schema'::text, ''::text, 'owner ' || pg_get_userbyid(nspowner) AS definition
FROM namespace
UNION ALL
SELECT '', '', 'extension', extname, format('version %s in %I', extversion, nspname)
FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
UNION ALL
SELECT schema, relname, kind, '', concat_ws(', ', 'owner ' || pg_get_userbyid(relowner),
    CASE relpersistence WHEN 'u' THEN 'unlogged' END,
    'partition by ' || pg_get_partkeydef(r.oid),
    (SELECT 'inherits ' || string_agg(inhparent::regclass::text, ', ' ORDER BY inhseqno)
     FROM pg_inherits WHERE inhrelid = r.oid),
    pg_get_expr(relpartbound, r.oid),
    CASE WHEN relrowsecurity THEN 'row security enabled' END,
    CASE WHEN relforcerowsecurity THEN 'row security forced' END,
    'with ' || array_to_string(reloptions, ', '),
    CASE WHEN relkind IN ('v', 'm') THEN 'as ' || pg_get_viewdef(r.oid) END,
    (SELECT format('%s start %s increment %s min %s max %s cache %s%s', format_type(seqtypid, NULL), seqstart,
         seqincrement, seqmin, seqmax, seqcache, CASE WHEN seqcycle THEN ' cycle' END)
     FROM pg_sequence WHERE seqrelid = r.oid),
    (SELECT format('owned by %s.%I', refobjid::regclass, attname)
     FROM pg_depend JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
     WHERE relkind = 'S' AND classid = 'pg_class'::regclass AND objid = r.oid AND deptype = 'a'))
FROM relation r
UNION ALL
SELECT schema, relname, 'column', attname, concat_ws(' ', format_type(atttypid, atttypmod),
    (SELECT 'COLLATE ' || attcollation::regcollation FROM pg_type
     WHERE pg_type.oid = atttypid AND attcollation <> typcollation),
    CASE WHEN attnotnull THEN 'NOT NULL' END,
    CASE attidentity WHEN 'a' THEN 'GENERATED ALWAYS AS IDENTITY' WHEN 'd' THEN 'GENERATED BY DEFAULT AS IDENTITY' END,
    CASE attgenerated WHEN '' THEN 'DEFAULT ' || pg_get_expr(adbin, adrelid)
        ELSE format('GENERATED ALWAYS AS (%s)%s', pg_get_expr(adbin, adrelid),
                    CASE attgenerated WHEN 's' THEN ' STORED' END) END)
FROM relation r JOIN pg_attribute ON attrelid = r.oid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE relkind IN ('r', 'p', 'f', 'c') AND attnum > 0 AND NOT attisdropped
UNION ALL
SELECT schema, r.relname, 'index', i.relname,
    pg_get_indexdef(indexrelid) || CASE WHEN indisvalid THEN '' ELSE ' INVALID' END
FROM relation r JOIN pg_index ON indrelid = r.oid JOIN pg_class i ON i.oid = indexrelid
-- The indexes of constraints are part of the constraint.
WHERE NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND contype IN ('p', 'u', 'x'))
UNION ALL
-- NOT NULL is part of the column, and a constraint trigger is a trigger.
SELECT schema, relname, 'constraint', conname, pg_get_constraintdef(c.oid)
FROM relation r JOIN pg_constraint c ON conrelid = r.oid WHERE contype NOT IN ('n', 't')
UNION ALL
SELECT schema, relname, 'trigger', tgname, pg_get_triggerdef(t.oid) ||
    CASE tgenabled WHEN 'O' THEN '' WHEN 'D' THEN ' DISABLED' WHEN 'R' THEN ' REPLICA' ELSE ' ALWAYS' END
FROM relation r JOIN pg_trigger t ON tgrelid = r.oid WHERE NOT tgisinternal
UNION ALL
SELECT schema, relname, 'rule', rulename, pg_get_ruledef(w.oid)
FROM relation r JOIN pg_rewrite w ON ev_class = r.oid WHERE rulename <> '_RETURN'
UNION ALL
SELECT schema, relname, 'policy', polname, concat_ws(' ',
    CASE WHEN polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
    CASE polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE'
        ELSE 'ALL' END,
    'TO ' || (SELECT string_agg(name, ', ' ORDER BY name)
              FROM (SELECT CASE role WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(role)::text END AS name
                    FROM unnest(polroles) AS role) AS role),
    'USING (' || pg_get_expr(polqual, polrelid) || ')', 'WITH CHECK (' || pg_get_expr(polwithcheck, polrelid) || ')')
FROM relation r JOIN pg_policy ON polrelid = r.oid
UNION ALL
SELECT schema, signature, kind, '', concat_ws(', ', 'owner ' || pg_get_userbyid(proowner),
    'returns ' || pg_get_function_result(r.oid),
    'arguments ' || nullif(pg_get_function_arguments(r.oid), pg_get_function_identity_arguments(r.oid)),
    'language ' || lanname,
    CASE provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' END,
    CASE WHEN proisstrict THEN 'strict' END, CASE WHEN prosecdef THEN 'security definer' END,
    CASE proparallel WHEN 's' THEN 'parallel safe' WHEN 'r' THEN 'parallel restricted' END,
    'set ' || array_to_string(proconfig, ', '),
    (SELECT concat_ws(' ', 'state', format_type(aggtranstype, NULL), 'by', aggtransfn, 'final', aggfinalfn,
         'initial ' || quote_literal(agginitval)) FROM pg_aggregate a WHERE aggfnoid = r.oid),
    'body ' || left(md5(coalesce(pg_get_function_sqlbody(r.oid), prosrc)), 12))
FROM routine r JOIN pg_language ON pg_language.oid = prolang
UNION ALL
SELECT schema, typname, kind, '', concat_ws(', ', 'owner ' || pg_get_userbyid(typowner),
    (SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid),
    (SELECT format_type(rngsubtype, NULL) FROM pg_range WHERE rngtypid = t.oid),
    CASE typtype WHEN 'd' THEN concat_ws(' ', format_type(typbasetype, typtypmod),
        (SELECT 'COLLATE ' || t.typcollation::regcollation FROM pg_type base
         WHERE base.oid = t.typbasetype AND base.typcollation <> t.typcollation),
        CASE WHEN typnotnull THEN 'NOT NULL' END, 'DEFAULT ' || typdefault) END)
FROM type t
UNION ALL
SELECT schema, typname, 'constraint', conname, pg_get_constraintdef(c.oid)
FROM type t JOIN pg_constraint c ON contypid = t.oid WHERE contype <> 'n'
UNION ALL
-- Default privileges of the owner and PUBLIC appear only if they were revoked.
SELECT schema, relation, 'grant',
    concat_ws(' ', 'to ' || CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee)::text END,
              'on column ' || nullif("column", '')),
    coalesce(max(privileges) FILTER (WHERE NOT is_default), 'revoked')
FROM privilege GROUP BY schema, relation, "column", class, grantee
HAVING max(privileges) FILTER (WHERE NOT is_default) IS DISTINCT FROM max(privileges) FILTER (WHERE is_default)
UNION ALL
SELECT coalesce(n.schema, ''), '', 'default grant', format('of %s on %s to %s', pg_get_userbyid(defaclrole),
    CASE defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions' WHEN 'T' THEN 'types'
        WHEN 'n' THEN 'schemas' ELSE defaclobjtype::text END,
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee)::text END),
    string_agg(privilege_type || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END, ', '
        ORDER BY privilege_type)
FROM pg_default_acl LEFT JOIN namespace n ON n.oid = defaclnamespace, aclexplode(defaclacl)
GROUP BY 1, defaclrole, defaclobjtype, grantee
