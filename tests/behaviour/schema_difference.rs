//! The difference between two schemas, for every kind of object: added, removed and changed.

use lakebase_core::admin::schema::{Difference, Snapshot};
use lakebase_local::LocalLakebase;
use lakebase_tests::{lakebase, local};

const CREATE: &str = "
    CREATE ROLE reader; CREATE ROLE another;
    CREATE SCHEMA app;
    SET search_path = app;
    CREATE EXTENSION pgcrypto SCHEMA app;
    CREATE TABLE books (
        id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text COLLATE \"C\" NOT NULL DEFAULT 'none',
        twice int GENERATED ALWAYS AS (2 * 2) STORED, copies smallint
    );
    ALTER TABLE books ADD CONSTRAINT sane CHECK (copies > 0) NOT VALID;
    CREATE INDEX by_title ON books (title);
    GRANT SELECT ON books TO reader;
    GRANT UPDATE (title) ON books TO reader;
    ALTER TABLE books ENABLE ROW LEVEL SECURITY;
    CREATE POLICY few ON books FOR SELECT TO reader USING (id < 3);
    CREATE RULE quiet AS ON DELETE TO books DO INSTEAD NOTHING;
    CREATE VIEW titles AS SELECT title FROM books;
    CREATE MATERIALIZED VIEW counts AS SELECT count(*) FROM books;
    CREATE SEQUENCE numbers;
    CREATE TYPE state AS ENUM ('lent', 'here');
    CREATE DOMAIN isbn AS text NOT NULL DEFAULT '-' CONSTRAINT sane CHECK (value <> '');
    CREATE TYPE place AS (room int);
    CREATE TYPE span AS RANGE (subtype = int);
    CREATE FUNCTION pages(book int, lines int DEFAULT 40) RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
    CREATE PROCEDURE sort() LANGUAGE sql AS 'SELECT 1';
    CREATE AGGREGATE total(int) (sfunc = int4pl, stype = int);
    CREATE TRIGGER stamps BEFORE INSERT ON books FOR EACH ROW EXECUTE FUNCTION stamp();
    CREATE TABLE events (day date) PARTITION BY RANGE (day);
    CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO reader;
    CREATE TEMPORARY TABLE passing (id int);
";

const CREATED: &str = "\
database
+ extension pgcrypto: version 1.3 in app
schema app
+ schema: owner US
+ default grant of US on tables to reader: SELECT
app.books
+ table: owner US, row security enabled
+ column copies: smallint
+ column id: integer NOT NULL GENERATED ALWAYS AS IDENTITY
+ column title: text COLLATE \"C\" NOT NULL DEFAULT 'none'::text
+ column twice: integer GENERATED ALWAYS AS ((2 * 2)) STORED
+ constraint books_pkey: PRIMARY KEY (id)
+ constraint sane: CHECK ((copies > 0)) NOT VALID
+ grant to reader: SELECT
+ grant to reader on column title: UPDATE
+ index by_title: CREATE INDEX by_title ON app.books USING btree (title)
+ policy few: PERMISSIVE SELECT TO reader USING ((id < 3))
+ rule quiet: CREATE RULE quiet AS ON DELETE TO app.books DO INSTEAD NOTHING;
+ trigger stamps: CREATE TRIGGER stamps BEFORE INSERT ON app.books FOR EACH ROW EXECUTE FUNCTION app.stamp()
app.counts
+ materialized view: owner US, as SELECT count(*) AS count FROM app.books;
app.events
+ table: owner US, partition by RANGE (day)
+ column day: date
app.events_2026
+ table: owner US, inherits app.events, FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')
+ column day: date
";

const CHANGE: &str = "
    SET search_path = app;
    ALTER EXTENSION pgcrypto SET SCHEMA public;
    ALTER SCHEMA app OWNER TO another;
    DROP VIEW titles;
    ALTER TABLE books ALTER copies TYPE bigint;
    ALTER TABLE books ALTER title DROP NOT NULL;
    ALTER TABLE books VALIDATE CONSTRAINT sane;
    DROP INDEX by_title; CREATE UNIQUE INDEX by_title ON books (title);
    GRANT INSERT ON books TO reader WITH GRANT OPTION;
    REVOKE UPDATE (title) ON books FROM reader;
    ALTER TABLE books FORCE ROW LEVEL SECURITY;
    ALTER POLICY few ON books TO PUBLIC;
    CREATE OR REPLACE RULE quiet AS ON DELETE TO books DO NOTHING;
    CREATE VIEW titles AS SELECT title, id FROM books;
    ALTER SEQUENCE numbers INCREMENT 5;
    ALTER TYPE state ADD VALUE 'lost' BEFORE 'here';
    ALTER DOMAIN isbn DROP NOT NULL;
    ALTER TYPE place ADD ATTRIBUTE shelf int;
    CREATE OR REPLACE FUNCTION pages(book int, lines int DEFAULT 50) RETURNS int LANGUAGE sql STABLE AS 'SELECT 2';
    REVOKE EXECUTE ON PROCEDURE sort FROM PUBLIC;
    ALTER TABLE books DISABLE TRIGGER stamps;
    ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT INSERT ON TABLES TO reader;
";

const CHANGED: &str = "\
database
~ extension pgcrypto: version 1.3 in app -> version 1.3 in public
schema app
~ schema: owner US -> owner another
~ default grant of US on tables to reader: SELECT -> INSERT, SELECT
app.books
~ table
-   owner US, row security enabled
+   owner US, row security enabled, row security forced
~ column copies: smallint -> bigint
~ column title: text COLLATE \"C\" NOT NULL DEFAULT 'none'::text -> text COLLATE \"C\" DEFAULT 'none'::text
~ constraint sane: CHECK ((copies > 0)) NOT VALID -> CHECK ((copies > 0))
~ grant to reader: SELECT -> INSERT WITH GRANT OPTION, SELECT
- grant to reader on column title: UPDATE
~ index by_title
-   CREATE INDEX by_title ON app.books USING btree (title)
+   CREATE UNIQUE INDEX by_title ON app.books USING btree (title)
~ policy few: PERMISSIVE SELECT TO reader USING ((id < 3)) -> PERMISSIVE SELECT TO PUBLIC USING ((id < 3))
";

async fn snapshot(local: &LocalLakebase) -> Snapshot {
    Snapshot::of(&lakebase(local)).await.expect("readable")
}

/// Replaces the name of lakebase-local's superuser.
fn shown(difference: &Difference, superuser: &str) -> String {
    difference.to_string().replace(superuser, "US")
}

fn superuser(snapshot: &Snapshot) -> String {
    let mut objects = snapshot.objects();
    let found = objects.find(|(object, _)| object.schema == "app" && object.kind == "table");
    let definition = found.expect("a table").1;
    let owner = definition.strip_prefix("owner ").expect("an owner");
    owner.split(',').next().expect("a name").to_owned()
}

/// The opposite of a change.
fn swapped(line: &str) -> String {
    match (line.strip_prefix("+ "), line.strip_prefix("- ")) {
        (Some(rest), _) => format!("- {rest}"),
        (_, Some(rest)) => format!("+ {rest}"),
        _ => line.to_owned(),
    }
}

#[tokio::test]
async fn the_difference_of_two_schemas_has_every_kind_of_object() {
    let local = local().await;
    let empty = snapshot(&local).await;
    local.sql(CREATE).await.expect("created");
    let full = snapshot(&local).await;
    let us = superuser(&full);
    let added = empty.diff(&full);
    let text = shown(&added, &us);
    assert!(text.starts_with(CREATED), "{text}");
    let kinds = "aggregate column constraint default grant domain enum extension function grant index \
        materialized view policy procedure range rule schema sequence table trigger type view";
    let mut found: Vec<_> = added
        .changes()
        .iter()
        .map(|one| one.object.kind.as_str())
        .collect();
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.join(" "), kinds);
    for part in ["passing", "digest", "armor"] {
        assert!(!text.contains(part), "{part}: {text}");
    }

    let removed = shown(&full.diff(&empty), &us);
    let opposite: Vec<_> = text.lines().map(swapped).collect();
    assert_eq!(removed.lines().collect::<Vec<_>>(), opposite);
    assert!(full.diff(&full).is_empty());
    assert!(full.diff(&snapshot(&local).await).is_empty());

    local.sql(CHANGE).await.expect("changed");
    let after = snapshot(&local).await;
    let changed = full.diff(&after);
    let text = shown(&changed, &us);
    assert!(text.starts_with(CHANGED), "{text}");
    for line in [
        "~ rule quiet",
        "~ trigger stamps",
        "~ view",
        "~ sequence",
        "~ enum: owner US, 'lent', 'here' -> owner US, 'lent', 'lost', 'here'",
        "~ domain: owner US, text NOT NULL DEFAULT '-'::text -> owner US, text DEFAULT '-'::text",
        "+ column shelf: integer",
        "~ function",
        "+ grant to PUBLIC: revoked",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}: {text}");
    }
    let back = after.diff(&full);
    assert_eq!(back.changes().len(), changed.changes().len());
    for (there, back) in changed.changes().iter().zip(back.changes()) {
        assert_eq!(there.object, back.object);
        assert_eq!((&there.before, &there.after), (&back.after, &back.before));
    }
}

#[tokio::test]
async fn schemas_and_tables_can_be_left_out_of_a_difference_in_text_and_json() {
    let local = local().await;
    let empty = snapshot(&local).await;
    let sql = "CREATE SCHEMA app; CREATE TABLE app.books (\"a\nb\" int); CREATE TABLE app.history (id int); \
         CREATE SCHEMA other; CREATE TABLE other.books (id int)";
    local.sql(sql).await.expect("created");
    let full = snapshot(&local).await;
    let app = empty.diff(&full.clone().only_schema("app").without_table("history"));
    let app = app.changes().iter().filter(|one| one.after.is_some());
    let app: Vec<_> = app
        .map(|one| format!("{}.{}", one.object.relation, one.object.name))
        .collect();
    assert_eq!(app, [".", "books.", "books.a\nb"]);

    let all = empty.diff(&full);
    let markdown = all.to_markdown();
    assert!(
        markdown.starts_with("```diff\nschema app\n+ schema: owner "),
        "{markdown}"
    );
    assert!(markdown.contains("\n+ column a b: integer\n"), "{markdown}");
    let json = serde_json::to_value(&all).expect("JSON");
    let first = &json["changes"][0];
    assert_eq!(first["object"]["kind"], "schema", "{json}");
    assert!(
        first["before"].is_null() && first["after"].is_string(),
        "{json}"
    );

    local
        .sql("CREATE TABLE app.wide (a int, b int, c int, d int, e int, f int, g int, h int)")
        .await
        .expect("created");
    let long = empty.diff(&snapshot(&local).await).to_markdown();
    assert!(
        long.starts_with("<details><summary>17 changes to the schema</summary>\n\n```diff\n"),
        "{long}"
    );
}
