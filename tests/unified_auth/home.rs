//! A scratch home folder.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().expect("a folder"))
    }

    /// With a profile file.
    pub(crate) fn with_profiles(text: &str) -> Self {
        let home = Self::new();
        std::fs::write(home.path().join(".databrickscfg"), text).expect("a file");
        home
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn as_str(&self) -> &str {
        self.path().to_str().expect("UTF-8")
    }

    pub(crate) fn profile_file(&self) -> String {
        format!("{}/.databrickscfg", self.as_str())
    }

    /// Writes a bash script to the folder `bin`, and returns the folder.
    pub(crate) fn program(&self, name: &str, script: &str) -> String {
        let folder = self.path().join("bin");
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join(name);
        // A child process writes it: a child of another test may inherit an open file of this process, and a script
        // that is open for writing cannot run.
        let mut child = Command::new("/bin/sh")
            .args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut pipe = child.stdin.take().expect("piped");
        write!(pipe, "#!/bin/bash\n{script}\n").expect("written");
        drop(pipe);
        assert!(child.wait().expect("an exit status").success());
        folder.to_str().expect("UTF-8").to_owned()
    }

    /// The content of a file that a program has written, or nothing.
    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }
}

/// A default profile and one of each kind.
pub(crate) const M: &str = "\
[DEFAULT]
host = https://dbc-XXXXXXXX-YYYY.cloud.databricks.com/
token = dapi-default
rate_limit=34
debug_truncate = 1

[nohost]
token = dapi-default

[pat.with.dot]
host = https://dbc-XXXXXXXX-YYYY.cloud.databricks.com/
token = dapi-default

[basic]
host = https://dbc-XXXXXXXX-YYYY.cloud.databricks.com/
username = abc
password = bcd

[azure-spn]
host = https://adb-123.4.azuredatabricks.net/
azure_tenant_id = 12345678
azure_client_id = 87654321
azure_client_secret = 10000002

[scope-empty]
host = https://example.com
client_id = a
client_secret = b

[scope-multiple]
host = https://example.com
client_id = a
client_secret = b
scopes = clusters, jobs, pipelines, iam:read, files:read, mlflow, model-serving:read
";
/// Azure profiles, no default one.
pub(crate) const A: &str = "\
[nohost]
token = dapi-default
[justhost]
host = https://adb-123.4.azuredatabricks.net/
[pat]
host = https://adb-123.4.azuredatabricks.net/
token = dapi-default
";
/// No default profile, and nothing usable.
pub(crate) const C: &str = "[nohost]\ntoken = dapi-default\n[notoken]\nhost = https://x\n";
/// An empty default profile.
pub(crate) const E: &str = "; comment\n[DEFAULT]\n\n[abc]\nhost = https://foo\ntoken = xyz\n";

/// A fake Azure CLI. `FAIL` makes it fail; `FAIL_IF` makes it fail for this argument.
pub(crate) const AZ: &str = r#"
[ "$FAIL" = yes ] && { echo "ERROR: Please run 'az login'" >&2; exit 1; }
for argument in "$@"; do
    if [ -n "$FAIL_IF" ] && [ "$argument" = "$FAIL_IF" ]; then
        echo "ERROR: refused $argument" >&2
        exit 1
    fi
done
echo "$*" >> "$HOME/az.log"
if [ "$2" = show ]; then
    echo "{\"tenantId\": \"t\", \"user\": {\"type\": \"${AZ_TYPE:-user}\", \"name\": \"${AZ_NAME:-ana}\"}}"
else
    echo "{\"accessToken\": \"${AZ_TOKEN:-aad}\", \"tokenType\": \"Bearer\", \"expires_on\": 4102444800, \"expiresOn\": \"2100-01-01 00:00:00.000000\"}"
fi
"#;
