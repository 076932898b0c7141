//! A copy of a running cluster, made with Postgres's backup functions. It has all committed data.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use super::own::Own;
use super::template::Template;
use super::{OUR_PATH, Postgres, Server};
use crate::Error;

/// The first version with `pg_backup_start`.
const OLDEST: i32 = 150_000;

/// Copies everything except the WAL and the lock files of the original server. Files may disappear meanwhile, for example
/// with a table; recovery repairs that.
const COPY: &str = r#"
from=$1 to=$PWD/data
mkdir -m 700 "$to" "$to/pg_wal" && cd "$from" || exit 1
set --
for name in *; do
    case $name in
        pg_wal | postmaster.*) ;;
        *) set -- "$@" "$name" ;;
    esac
done
errors=$(cp -Rp "$@" "$to" 2>&1) && exit
printf '%s\n' "$errors" | grep -v 'No such file or directory$' >&2 || exit 0
exit 1
"#;

/// Copies the named WAL files, and writes the backup label from which the server starts.
const FINISH: &str = r#"
cat >data/backup_label || exit 1
to=$PWD/data/pg_wal; cd "$1/pg_wal" && shift && exec cp -p "$@" "$to"
"#;

/// The source of a copy.
#[derive(Clone, Debug)]
pub(crate) struct Original {
    server: Server,
    data: PathBuf,
    template: Arc<Template>,
}

impl Original {
    pub(super) fn of(own: &Own) -> Self {
        Self {
            server: own.server().clone(),
            data: own.folder.data(),
            template: Arc::clone(&own.template),
        }
    }

    /// Starts a server on a copy. Also returns the LSN at which the copy ends.
    pub(crate) async fn copy(&self) -> Result<(Postgres, String), Error> {
        let failed = |error| Error::because("Postgres cannot make a backup of the branch", error);
        // The backup belongs to this session, and ends with it.
        let admin = self.server.admin("postgres", OUR_PATH).await?;
        let sql = "SELECT current_setting('server_version_num')::int, \
                   (SELECT count(*) FROM pg_tablespace WHERE oid >= 16384)";
        let facts = admin.query_one(sql, &[]).await.map_err(failed)?;
        if facts.get::<_, i32>(0) < OLDEST {
            return Err(Error::new("branches need Postgres 15 or later"));
        }
        if facts.get::<_, i64>(1) > 0 {
            return Err(Error::new(
                "a cluster with tablespaces cannot be copied to a branch: they are outside of its folder",
            ));
        }
        let folder = self.template.new_folder().await?;
        let sql = "SELECT pg_walfile_name(lsn) FROM pg_backup_start('lakebase-local', true) AS lsn";
        let start = admin.query_one(sql, &[]).await.map_err(failed)?;
        let script = |text: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", text, "copy"]).arg(&self.data);
            command
        };
        let folder = self.template.fill(folder, script(COPY), None).await?;
        let sql = "SELECT lsn::text, labelfile FROM pg_backup_stop(false)";
        let stop = admin.query_one(sql, &[]).await.map_err(failed)?;
        let sql = "SELECT name FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' AND name >= $1";
        let first: String = start.get(0);
        let files = admin.query(sql, &[&first]).await.map_err(failed)?;
        let mut command = script(FINISH);
        command.args(files.iter().map(|row| row.get::<_, String>(0)));
        let label = Some(stop.get(1));
        let folder = self.template.fill(folder, command, label).await?;
        let own = Own::serve(folder, Arc::clone(&self.template)).await?;
        Ok((Postgres::Own(own), stop.get(0)))
    }

    /// Bytes of WAL since this LSN; negative for a future one.
    pub(crate) async fn bytes_since(&self, lsn: &str) -> Result<i64, Error> {
        let admin = self.server.admin("postgres", OUR_PATH).await?;
        let sql = "SELECT (pg_current_wal_insert_lsn() - $1::text::pg_lsn)::int8";
        let bytes = admin.query_one(sql, &[&lsn]).await;
        let bytes = bytes.map_err(|error| Error::because("Postgres rejects the LSN", error))?;
        Ok(bytes.get(0))
    }
}
