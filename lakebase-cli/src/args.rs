//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ColorChoice, Parser, Subcommand};
use lakebase_core::admin::{Access, Expiry, IdentityKind};
use lakebase_core::{Config, Error, Lakebase};

use crate::listen::Listen;

/// Logs tools in to Databricks Lakebase, and checks a set-up.
///
/// Works wherever the Databricks CLI, an official SDK or Databricks Apps works, with the same environment
/// variables and the same ~/.databrickscfg. On a laptop, run `databricks auth login`, set LAKEBASE_ENDPOINT,
/// and check with `lakebase doctor`.
#[derive(Debug, Parser)]
#[command(name = "lakebase", version, max_term_width = 100, after_long_help = ENVIRONMENT)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) target: Target,

    /// Use colours
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        help_heading = "Global options"
    )]
    pub(crate) color: ColorChoice,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that take precedence over the environment.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Target {
    /// Endpoint or branch, projects/../branches/.. [env: LAKEBASE_ENDPOINT]
    #[arg(long, global = true, value_name = "PATH")]
    endpoint: Option<String>,

    /// Profile in ~/.databrickscfg [env: DATABRICKS_CONFIG_PROFILE]
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(crate) profile: Option<String>,

    /// Database [env: PGDATABASE] [default: databricks_postgres]
    #[arg(short, long, global = true, value_name = "NAME")]
    database: Option<String>,

    /// Postgres role [env: PGUSER] [default: the authenticated identity]
    #[arg(short, long, global = true, value_name = "ROLE")]
    user: Option<String>,

    /// Schema that comes first in the search path [env: LAKEBASE_SCHEMA]
    #[arg(short, long, global = true, value_name = "NAME")]
    schema: Option<String>,

    /// Time limit of a login [env: PGCONNECT_TIMEOUT] [default: 30]
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command that logs in through an auth proxy
    ///
    /// The command gets PGHOST (the folder of a Unix socket), PGPORT, PGDATABASE, PGUSER, PGSSLMODE and DATABASE_URL, and
    /// no database token. Each of its connections logs in with a current token, for as long as the command runs. If a
    /// schema is set, it comes first in the search path, and the command gets DATABASE_SCHEMA and LAKEBASE_SCHEMA. With a
    /// native password, the direct host replaces a pooled one, because migrations and pg_dump need it. Signals are
    /// forwarded, and the exit status is the command's.
    ///
    /// With --branch, the command runs on another branch of the project; with --temporary-branch on a copy that is deleted
    /// when the command ends.
    ///
    /// For drivers without Unix sockets, use `lakebase proxy --listen 127.0.0.1:0 -- COMMAND`.
    #[command(after_long_help = EXEC_EXAMPLES)]
    Exec(ExecArgs),

    /// Run an auth proxy for programs in any language
    ///
    /// Runs beside an application or around a command. Programs connect without TLS and without a token; the proxy logs
    /// in to Lakebase with a current token, over verified TLS. It prints a URL for each listener once it accepts
    /// connections. Ctrl-C, SIGTERM or SIGHUP ends it.
    #[command(after_long_help = PROXY_EXAMPLES)]
    Proxy(ProxyArgs),

    /// Print the database's URL
    ///
    /// The password is masked. With --with-password, the URL has everything that psql needs, including the roots to
    /// trust.
    Url {
        /// Print the password as well: a new token, valid for up to an hour
        #[arg(long)]
        with_password: bool,
    },

    /// Print a new database token
    ///
    /// The token is the password of the Postgres role, valid for new logins for up to an hour. Keep it out of files and
    /// logs: it lets others log in as you.
    #[command(after_long_help = TOKEN_EXAMPLES)]
    Token {
        /// Print a JSON object with the expiry
        #[arg(long)]
        json: bool,
    },

    /// Check each step of a login, and print what to fix
    ///
    /// Checks configuration and the source of each value, authentication, compute, clock, token, name resolution,
    /// network, TLS certificate, login, role, schema privileges, row-level security and versions. It resumes a
    /// suspended compute and changes nothing else. Exit status 0 if a program can log in, 1 if not.
    Doctor {
        /// Print a JSON object, for scripts
        #[arg(long)]
        json: bool,
    },

    /// List, create, compare and delete branches of the project
    ///
    /// The project is that of the configured endpoint or branch. Changes need CAN MANAGE on it.
    #[command(after_long_help = BRANCH_EXAMPLES)]
    Branch {
        #[command(subcommand)]
        command: BranchCommand,
    },

    /// Create a role and grant it privileges
    ///
    /// Runs in one transaction; running it again changes nothing. Creating a role needs CAN MANAGE on the project and a
    /// role that may create roles. Privileges in a schema must be granted by its owner: the role that deployed it.
    /// Existing privileges are not granted again.
    #[command(after_long_help = GRANT_EXAMPLES)]
    Grant(Grant),

    /// Run a Lakebase on this machine, alone or around a command
    ///
    /// See `lakebase local --help`.
    #[cfg(feature = "local")]
    #[command(
        disable_help_flag = true,
        override_usage = "lakebase local [OPTIONS] [COMMAND [ARGS]..]"
    )]
    Local {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        args: Vec<OsString>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct ExecArgs {
    /// Run the command on this branch of the project
    #[arg(long, value_name = "NAME", conflicts_with = "temporary_branch")]
    pub(crate) branch: Option<String>,

    /// Allow --branch to name a protected branch or the default branch
    #[arg(long, requires = "branch")]
    pub(crate) yes: bool,

    /// Run the command on a new branch, which is deleted at the end
    #[arg(long)]
    pub(crate) temporary_branch: bool,

    /// Branch to copy [default: the project's default branch]
    #[arg(long, value_name = "NAME", requires = "temporary_branch")]
    pub(crate) from: Option<String>,

    /// Expiry of the new branch, in case this program cannot delete it: 7d, 168h, 604800s or never
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = expiry)]
    pub(crate) ttl: Expiry,

    /// Remove the workspace's credentials from the command's environment
    ///
    /// These are DATABRICKS_*, ARM_*, AZURE_*, GOOGLE_* credentials, ACTIONS_ID_TOKEN_REQUEST_*, LAKEBASE_* and PGPASSWORD.
    /// Programs with the lakebase crates log in directly and need them.
    #[arg(long)]
    pub(crate) no_credentials: bool,

    /// The command and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BranchCommand {
    /// List the branches
    List {
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },

    /// Create a branch and wait until a login to it works
    Create(CreateBranch),

    /// Show a branch
    Show {
        /// Id of the branch
        name: String,

        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },

    /// Wait until a branch is ready and a login to it works
    Wait {
        /// Id of the branch
        name: String,

        /// Time limit
        #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds)]
        limit: Duration,

        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },

    /// Delete a branch; until it is purged, it can be undeleted and its id is taken
    Delete {
        /// Id of the branch
        name: String,

        /// Delete it permanently, and free its id
        #[arg(long)]
        purge: bool,

        /// Delete it even if it is protected; the default branch cannot be deleted
        #[arg(long)]
        yes: bool,

        /// Succeed if the branch does not exist
        #[arg(long)]
        if_exists: bool,
    },

    /// Compare the schemas of two branches
    ///
    /// Compares tables, columns, constraints, indexes, privileges and more, as the configured role can read them. With
    /// --schema, only that schema.
    Diff {
        /// Id of the branch to compare with
        before: String,

        /// Id of the branch with the changes
        after: String,

        /// Print Markdown, for a comment on a pull request
        #[arg(long, conflicts_with = "json")]
        markdown: bool,

        /// Print a JSON object with the changes
        #[arg(long)]
        json: bool,
    },

    /// Change when the platform deletes a branch
    Extend {
        /// Id of the branch
        name: String,

        /// Expiry from now: 7d, 168h, 604800s or never
        #[arg(long, value_name = "TIME", value_parser = expiry)]
        ttl: Expiry,

        /// Change it even if it is protected or the default branch
        #[arg(long)]
        yes: bool,

        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },

    /// Delete old branches by prefix; protected branches and the default branch stay
    Cleanup {
        /// Beginning of the ids, for example ci-pr-
        #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
        prefix: String,

        /// Only branches created at least this long ago: 7d, 168h or 604800s
        #[arg(long, value_name = "TIME", default_value = "1d", value_parser = time_span)]
        older_than: Duration,

        /// Delete them permanently, and free their ids
        #[arg(long)]
        purge: bool,

        /// Delete them; without this option, only list them
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct CreateBranch {
    /// Id of the new branch: a-z, 0-9 and -, at most 63 characters, a letter first
    #[arg(required_unless_present = "git", conflicts_with = "git")]
    pub(crate) name: Option<String>,

    /// Derive the id from this git branch: feature/Foo becomes feature-foo
    #[arg(long, value_name = "BRANCH")]
    pub(crate) git: Option<String>,

    /// Branch to copy [default: the project's default branch]
    #[arg(long, value_name = "NAME")]
    pub(crate) from: Option<String>,

    /// Copy the data of this time, for example 2026-09-14T10:30:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "if_not_exists")]
    pub(crate) at: Option<jiff::Timestamp>,

    /// Expiry from now: 7d, 168h, 604800s or never
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    pub(crate) ttl: Expiry,

    /// Protect it from deletion
    #[arg(long)]
    pub(crate) protected: bool,

    /// Purge an existing branch of this id, with its data, first
    #[arg(long)]
    pub(crate) replace: bool,

    /// With --replace, purge the existing branch even if it is protected
    #[arg(long, requires = "replace")]
    pub(crate) yes: bool,

    /// Use an existing branch of this id and extend it to --ttl; another source is an error, and a deleted branch is purged
    /// first
    #[arg(long, conflicts_with = "replace")]
    pub(crate) if_not_exists: bool,

    /// Do not wait for a login, if the identity has no role in Postgres
    #[arg(long)]
    pub(crate) no_login: bool,

    /// Time limit
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds)]
    pub(crate) limit: Duration,

    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ProxyArgs {
    /// Listen on the Unix socket .s.PGSQL.5432 in this folder, for this user only. May be repeated. Default without --listen:
    /// a new private folder
    #[arg(long, value_name = "DIR[=DATABASE]", value_parser = Listen::within)]
    pub(crate) socket: Vec<Listen>,

    /// Listen on this TCP address, with a password. May be repeated. Port 0: a free port
    #[arg(long, value_name = "ADDRESS:PORT[=DATABASE]", value_parser = Listen::on)]
    pub(crate) listen: Vec<Listen>,

    /// Password for --listen. Default: a random password, which the URL contains
    #[arg(
        long,
        value_name = "PASSWORD",
        env = "LAKEBASE_PROXY_PASSWORD",
        hide_env_values = true,
        // An empty password, often of an unset variable, would admit everyone.
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub(crate) password: Option<String>,

    /// Let every user of this machine connect to --listen without a password
    #[arg(long, conflicts_with = "password")]
    pub(crate) trust_local_users: bool,

    /// Print one line of JSON with each listener (host, port, database, password, URL) and the URL of --http
    #[arg(long)]
    pub(crate) json: bool,

    /// Create this empty file when a login has worked for each listener; remove it at the end
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,

    /// Serve /metrics (Prometheus), /healthz and /readyz over plain HTTP on this address. Port 0: a free port
    ///
    /// Any client that can reach the address gets counts, names of databases, and error texts with hosts and roles, but no
    /// secrets.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) http: Option<SocketAddr>,

    /// Time for open transactions to finish at the end; idle connections are closed at once
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) grace: Duration,

    /// Run this command through the first listener, with the variables of `exec`, and end with it
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Args, Debug)]
pub(crate) struct Grant {
    /// E-mail of a person, client id of a service principal, or name of a group or any other role
    #[arg(value_name = "ROLE")]
    pub(crate) grantee: String,

    /// Create the role first, for an identity of this kind
    #[arg(long, value_name = "KIND", value_parser = identity_kind())]
    pub(crate) create: Option<IdentityKind>,

    /// Grant privileges in the schema (--schema): read rows, write rows, or all privileges
    #[arg(long, value_name = "WHAT", value_parser = access())]
    pub(crate) access: Option<Access>,

    /// Role that will create tables, if it is not yours; you must be a member of it
    ///
    /// Postgres grants privileges on future objects for one creator.
    #[arg(long, value_name = "ROLE", requires = "access")]
    pub(crate) made_by: Option<String>,

    /// Let it create schemas, for an application that runs its own migrations
    #[arg(long)]
    pub(crate) deploy: bool,

    /// Make it a member of this role, for example of a group
    #[arg(long, value_name = "ROLE")]
    pub(crate) member_of: Option<String>,

    /// Make it a member of this role without login, which is created if missing
    ///
    /// With --schema, that role then owns the schema and your objects in it, so that each member may migrate them.
    #[arg(long, value_name = "ROLE")]
    pub(crate) shared_owner: Option<String>,

    /// Put the schema (--schema) first in its search path, which pooled hosts need
    #[arg(long)]
    pub(crate) search_path: bool,

    /// Print the SQL without a connection, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

fn identity_kind() -> impl TypedValueParser<Value = IdentityKind> {
    let words = PossibleValuesParser::new(["user", "service-principal", "group"]);
    words.map(|word| match word.as_str() {
        "user" => IdentityKind::User,
        "group" => IdentityKind::Group,
        _ => IdentityKind::ServicePrincipal,
    })
}

fn access() -> impl TypedValueParser<Value = Access> {
    let words = PossibleValuesParser::new(["read", "write", "all"]);
    words.map(|word| match word.as_str() {
        "all" => Access::All,
        "write" => Access::Write,
        _ => Access::Read,
    })
}

/// Returns the configured value of a setting.
pub(crate) fn setting(config: &Config, name: &str) -> Option<String> {
    let found = config.settings().iter().find(|known| known.name == name)?;
    Some(found.value.clone())
}

/// Returns the value of a setting, if it comes from a URL.
pub(crate) fn setting_of_url(config: &Config, name: &str) -> Option<String> {
    let found = config.settings().iter().find(|known| known.name == name)?;
    let is_of_url = found.source.starts_with("LAKEBASE_PG_URL");
    is_of_url.then(|| found.value.clone())
}

impl Target {
    #[cfg(feature = "local")]
    pub(crate) fn is_given(&self) -> bool {
        let Self {
            endpoint,
            profile,
            database,
            user,
            schema,
            timeout,
        } = self;
        let values = [endpoint, profile, database, user, schema];
        timeout.is_some() || values.into_iter().any(Option::is_some)
    }

    pub(crate) fn config(&self) -> Result<Config, Error> {
        let mut builder = Config::builder().product("lakebase-cli", env!("CARGO_PKG_VERSION"));
        if let Some(endpoint) = &self.endpoint {
            builder = builder.endpoint(endpoint);
        }
        if let Some(profile) = &self.profile {
            builder = builder.profile(profile);
        }
        if let Some(database) = &self.database {
            builder = builder.database(database);
        }
        if let Some(user) = &self.user {
            builder = builder.user(user);
        }
        if let Some(schema) = &self.schema {
            builder = builder.schema(schema);
        }
        if let Some(timeout) = self.timeout {
            builder = builder.connect_timeout(timeout);
        }
        let mut vars: Vec<(String, String)> = std::env::vars_os()
            .map(|(name, value)| {
                let text = |text: OsString| text.to_string_lossy().into_owned();
                (text(name), text(value))
            })
            .collect();
        if let Some(endpoint) = &self.endpoint {
            let has = |name: &str| vars.iter().find(|(known, _)| known == name);
            let is_it = has("LAKEBASE_ENDPOINT").is_some_and(|(_, value)| value == endpoint);
            let is_below_exec = has("LAKEBASE_EXEC").is_some();
            // Their host would be used without notice, and may be production's.
            let set_aside: &[&str] = match (is_it, is_below_exec) {
                // The URL is the one of this endpoint.
                (true, true) => &[],
                (true, false) => &["LAKEBASE_PG_URL"],
                (false, false) => &["LAKEBASE_PG_URL", "PGHOST", "PGHOSTADDR"],
                // These are the proxy's.
                (false, true) => &["LAKEBASE_PG_URL", "PGHOST", "PGPORT", "PGSSLMODE"],
            };
            vars.retain(|(name, _)| !set_aside.contains(&name.as_str()));
        }
        builder.vars(vars).build()
    }

    pub(crate) fn lakebase(&self) -> Result<Lakebase, Error> {
        Lakebase::new(self.config()?)
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// `7d`, `168h`, `30m` or `604800s`.
fn time_span(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.char_indices().next_back() {
        Some((end, 'd')) => (&text[..end], 24 * 3600),
        Some((end, 'h')) => (&text[..end], 3600),
        Some((end, 'm')) => (&text[..end], 60),
        Some((end, 's')) => (&text[..end], 1),
        _ => return Err("not a time such as 7d, 168h, 30m or 604800s".to_owned()),
    };
    let number: u32 = number
        .parse()
        .map_err(|_| "not a whole number".to_owned())?;
    Ok(Duration::from_secs(u64::from(number) * unit))
}

fn expiry(text: &str) -> Result<Expiry, String> {
    match text {
        "never" => Ok(Expiry::Never),
        text => time_span(text).map(Expiry::After),
    }
}

/// A heading in the style of clap's own.
macro_rules! heading {
    ($text:literal) => {
        concat!("\u{1b}[1m\u{1b}[4m", $text, "\u{1b}[0m\n")
    };
}

const ENVIRONMENT: &str = concat!(
    heading!("Environment variables:"),
    "  LAKEBASE_ENDPOINT
          projects/{project}/branches/{branch}, with or without /endpoints/{endpoint}
  LAKEBASE_INSTANCE_NAME
          A Provisioned instance, instead of an endpoint
  LAKEBASE_SCHEMA
          Schema that comes first in the search path
  LAKEBASE_PG_URL
          A Postgres URL, which takes precedence over PG*; --endpoint disables it
  PGHOST, PGHOSTADDR, PGPORT, PGDATABASE, PGUSER, PGSSLMODE, PGSSLROOTCERT, PGAPPNAME, PGCONNECT_TIMEOUT
          As for psql; host and user are looked up in the workspace if they are not set
  PGPASSWORD
          A native password, without an endpoint; no token is minted
  DATABRICKS_HOST, DATABRICKS_CLIENT_ID, DATABRICKS_CLIENT_SECRET, DATABRICKS_TOKEN, ..
          As for every Databricks client
  RUST_LOG
          Logs to standard error, for example lakebase=debug
  NO_COLOR
          No colours, even on a terminal

",
    heading!("Exit status:"),
    "  0  Success
  1  Failure; standard error has the cause
  2  Wrong arguments or configuration
  `exec` and `proxy` exit with the status of their command, with 126 if it cannot be run, and with 127 if it is not found"
);

const EXEC_EXAMPLES: &str = concat!(
    heading!("Examples:"),
    "  lakebase exec psql
  lakebase exec -- psql -c 'SELECT current_user'
  lakebase exec pg_dump --schema-only
  lakebase exec --branch staging psql
  lakebase exec --temporary-branch --from production -- cargo test
  lakebase exec diesel migration run
  lakebase --schema app exec diesel print-schema --schema app
  lakebase --schema app exec sea-orm-cli generate entity -o src/entity
  lakebase --schema app exec sea-orm-cli migrate up"
);

const BRANCH_EXAMPLES: &str = concat!(
    heading!("Examples:"),
    "  lakebase branch list
  lakebase branch create ci-pr-42 --from production --ttl 4h
  lakebase branch create --git \"$(git branch --show-current)\" --ttl 7d
  lakebase branch extend ci-pr-42 --ttl 7d
  lakebase branch diff production ci-pr-42 --markdown
  lakebase branch delete ci-pr-42 --purge
  lakebase branch cleanup --prefix ci-pr- --older-than 7d --purge --yes"
);

const PROXY_EXAMPLES: &str = concat!(
    heading!("Examples:"),
    "  lakebase proxy
  lakebase proxy --socket /run/lakebase --ready-file /run/lakebase/ready
  lakebase proxy --listen 127.0.0.1:5432 --listen 127.0.0.1:5433=analytics
  lakebase proxy --listen 127.0.0.1:5432 --http 0.0.0.0:9090
  lakebase proxy --listen 127.0.0.1:0 -- java -jar application.jar"
);

const TOKEN_EXAMPLES: &str = concat!(
    heading!("Examples:"),
    "  export PGPASSWORD=$(lakebase token) PGSSLMODE=verify-full PGSSLROOTCERT=system
  lakebase token --json"
);

const GRANT_EXAMPLES: &str = concat!(
    heading!("Examples:"),
    "  As the project's owner, for a service principal that deploys its own schema, another one for the
  application, and a team of people:
    lakebase grant 6f2f0a2e-.. --create service-principal --deploy
    lakebase grant 0b1c73d9-.. --create service-principal
    lakebase grant analysts --create group

  Then, as the role that deployed the schema and owns it:
    lakebase --schema app grant 0b1c73d9-.. --access write
    lakebase --schema app grant analysts --access read

  As the project's owner, for two service principals that migrate the same tables:
    lakebase grant 6f2f0a2e-.. --shared-owner app_owner
    lakebase grant 0b1c73d9-.. --shared-owner app_owner

  Then, as the role that deployed the schema:
    lakebase --schema app grant 6f2f0a2e-.. --shared-owner app_owner

  The SQL of a grant:
    lakebase --schema app grant analysts --access read --dry-run"
);

/// Converts clap's choice, as its `auto` depends on the stream of the help text.
pub(crate) fn anstream_choice(choice: ColorChoice) -> anstream::ColorChoice {
    match choice {
        ColorChoice::Always => anstream::ColorChoice::Always,
        ColorChoice::Never => anstream::ColorChoice::Never,
        ColorChoice::Auto => anstream::ColorChoice::Auto,
    }
}
