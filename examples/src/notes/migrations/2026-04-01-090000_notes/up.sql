CREATE TABLE notes (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner TEXT NOT NULL DEFAULT current_user,
    text TEXT NOT NULL
);
CREATE INDEX ON notes (owner);

-- FORCE: without it, the application's service principal, which owns the table, would see all rows.
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE notes FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON notes USING (owner = current_user);
-- Members of notes_admins read all notes. to_regrole returns NULL as long as there is no such role.
CREATE POLICY admins ON notes FOR SELECT USING (pg_has_role(to_regrole('notes_admins'), 'USAGE'));

-- Nobody chooses an owner, and nobody changes a note.
GRANT SELECT, INSERT (text), DELETE ON notes TO PUBLIC;
DO $$ BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO PUBLIC', current_schema());
END $$;
