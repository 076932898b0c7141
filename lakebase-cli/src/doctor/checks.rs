//! The checks of `lakebase doctor`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lakebase_core::adapter::advice;
use lakebase_core::admin::{ComputeStatus, row_security_bypasses};
use lakebase_core::config::ResolvedSetting;
use lakebase_core::{Config, Error, Lakebase, Target};
use tokio::net::{TcpStream, lookup_host};
use tokio_postgres::Client;

use super::report::{Check, Finding};
use super::tls;
use crate::args;

/// Timeout for the connection to one address.
const DIAL_LIMIT: Duration = Duration::from_secs(5);
/// Timeout of each other check.
const STEP_LIMIT: Duration = Duration::from_secs(30);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// A smaller difference of the clocks is no warning.
const SMALL_SKEW_SECONDS: i64 = 30;

/// All settings and their sources.
pub(super) fn configuration(config: &Config) -> Finding {
    let show = |prefix: &str, settings: &[ResolvedSetting]| {
        let show = |setting: &ResolvedSetting| {
            let value = format!("{} ({})", setting.value, source(setting));
            (format!("{prefix}{}", setting.name), value)
        };
        settings.iter().map(show).collect::<Vec<_>>()
    };
    Finding::good("complete")
        .with(show("", config.settings()))
        .with(show("workspace ", &config.sign_in_settings()))
}

/// Settings of the builder come from global options.
fn source(setting: &ResolvedSetting) -> String {
    match setting.source.as_str() {
        "connect_timeout" => "--timeout".to_owned(),
        source @ ("endpoint" | "database" | "user" | "schema" | "profile") => format!("--{source}"),
        source => source.to_owned(),
    }
}

/// The checked set-up, and the results so far.
pub(super) struct Subject {
    config: Config,
    lakebase: Lakebase,
    status: Option<ComputeStatus>,
    target: Option<Arc<Target>>,
    addresses: Vec<SocketAddr>,
    socket: Option<TcpStream>,
    client: Option<Client>,
    /// The first failure, as the reason to skip later checks.
    missing: Option<&'static str>,
    signed_in: bool,
}

impl Subject {
    pub(super) fn new(config: Config, lakebase: Lakebase) -> Self {
        Self {
            config,
            lakebase,
            status: None,
            target: None,
            addresses: Vec::new(),
            socket: None,
            client: None,
            missing: None,
            signed_in: false,
        }
    }

    fn is_set(&self, setting: &str) -> bool {
        args::setting(&self.config, setting).is_some()
    }

    pub(super) async fn examine(&mut self, check: Check) -> Finding {
        let limit = match check {
            // It has its own timeout, whose error has more details.
            Check::Login => self.lakebase.connect_timeout() + STEP_LIMIT,
            Check::Certificate => HANDSHAKE_LIMIT,
            _ => STEP_LIMIT,
        };
        let finding = match tokio::time::timeout(limit, self.run(check)).await {
            Ok(finding) => finding,
            Err(_) => {
                // Later checks must not use it.
                self.client = None;
                Finding::problem(
                    format!("no answer within {} s", limit.as_secs()),
                    "Check the network: packets are lost, or the server does not respond",
                )
            }
        };
        if finding.is_failed() {
            self.missing.get_or_insert(match check {
                Check::SignIn => "no authentication",
                Check::Compute => "the compute is not available",
                Check::Token => "no token",
                Check::Name => "no address",
                Check::Network => "no connection",
                Check::Certificate => "no trusted connection",
                _ => "no login",
            });
        }
        finding
    }

    async fn run(&mut self, check: Check) -> Finding {
        let outcome = match check {
            Check::Configuration => return Finding::skipped("done"),
            Check::SignIn => self.sign_in().await,
            Check::Compute => self.compute().await,
            Check::Clock => Ok(self.clock()),
            Check::Token => self.token().await,
            Check::Name => self.host_name().await,
            Check::Network => Ok(self.network().await),
            Check::Certificate => Ok(self.certificate().await),
            Check::Login => self.login().await,
            Check::Role => self.role().await,
            Check::Schema => self.schema().await,
            Check::Rows => self.rows().await,
            Check::Versions => self.versions().await,
        };
        outcome.unwrap_or_else(|error| Finding::failed(&error))
    }

    async fn sign_in(&mut self) -> Result<Finding, Error> {
        let Some(auth_type) = self.config.auth_type() else {
            return Ok(Finding::skipped("not needed for a native password"));
        };
        let identity = match self.lakebase.identity().await {
            // The workspace may still allow minting.
            Err(error)
                if error
                    .status()
                    .is_some_and(|status| status == 403 || status >= 500) =>
            {
                self.signed_in = true;
                let text = format!("{auth_type}, but the workspace does not return the identity");
                return Ok(match self.is_set("user") {
                    true => Finding::good(format!("{text}; PGUSER is set")),
                    false => Finding::warning(text, "Set PGUSER to the Postgres role"),
                });
            }
            identity => identity?.unwrap_or_default(),
        };
        self.signed_in = true;
        Ok(Finding::good(format!("{auth_type}, as {identity}")))
    }

    async fn compute(&mut self) -> Result<Finding, Error> {
        if !self.signed_in {
            return Ok(Finding::skipped("the workspace cannot be queried"));
        }
        let status = match self.lakebase.compute_status().await {
            // Programs do not query it with host and user configured.
            Err(error) if self.is_set("host") && self.is_set("user") => {
                return Ok(Finding::failed(&error).into_warning());
            }
            status => status?,
        };
        let Some(status) = status else {
            return Ok(Finding::skipped("the workspace cannot be queried"));
        };
        let name = status.name.clone();
        let state = status
            .state
            .clone()
            .unwrap_or("of unknown state".to_owned());
        let is_disabled = status.is_disabled;
        self.status = Some(status);
        Ok(match state.as_str() {
            _ if is_disabled => Finding::problem(
                format!("{name} is disabled"),
                "A login cannot resume it: enable it in the workspace",
            ),
            "ACTIVE" | "AVAILABLE" => Finding::good(format!("{name} is {state}")),
            "IDLE" => Finding::good(format!("{name} is IDLE: the login resumes it")),
            _ => Finding::warning(
                format!("{name} is {state}"),
                "Wait, or check it in the workspace",
            ),
        })
    }

    fn clock(&self) -> Finding {
        let status = self.status.as_ref();
        let Some(seconds) = status.and_then(|status| status.clock_ahead_seconds) else {
            return Finding::skipped("the workspace returned no time");
        };
        let side = if seconds > 0 { "ahead of" } else { "behind" };
        match seconds.abs() {
            0 => Finding::good("same as the workspace's"),
            off if off <= SMALL_SKEW_SECONDS => {
                Finding::good(format!("{off} s {side} the workspace's"))
            }
            off => Finding::warning(
                format!("{off} s {side} the workspace's"),
                "Set this machine's clock (NTP). Tokens are still renewed in time, but certificates and logs depend on the clock",
            ),
        }
    }

    async fn token(&mut self) -> Result<Finding, Error> {
        if !self.lakebase.uses_tokens() {
            return Ok(Finding::skipped("not needed for a native password"));
        }
        if let Some(missing) = self.missing {
            return Ok(Finding::skipped(missing));
        }
        let credential = self.lakebase.credential().await?;
        let lifetime = credential.expires_at().and_then(|at| {
            let left = at.duration_since(std::time::SystemTime::now()).ok()?;
            Some(left.as_secs().div_ceil(60))
        });
        Ok(Finding::good(match lifetime {
            Some(minutes) => format!("minted, valid for {minutes} minutes by this machine's clock"),
            None => "minted".to_owned(),
        }))
    }

    async fn host_name(&mut self) -> Result<Finding, Error> {
        // Without authentication, a configured host is still known, but not the user.
        let target = match self.lakebase.target().await {
            Err(_) if self.missing.is_some() => {
                return Ok(Finding::skipped("the workspace cannot be queried"));
            }
            found => found?,
        };
        let host = target.host().to_owned();
        self.target = Some(Arc::clone(&target));
        let port = target.port();
        if let Some(address) = target.hostaddr() {
            self.addresses = vec![(address, port).into()];
            return Ok(Finding::good(format!(
                "{host} is not resolved: PGHOSTADDR is {address}"
            )));
        }
        match lookup_host((host.as_str(), port)).await {
            Ok(found) => self.addresses = found.collect(),
            Err(error) => {
                return Ok(Finding::problem(
                    format!("{host} has no address: {error}"),
                    "Check PGHOST and the name server; a private name resolves only inside its network. PGHOSTADDR can set the address instead",
                ));
            }
        }
        let mut addresses: Vec<String> = self
            .addresses
            .iter()
            .map(|address| address.ip().to_string())
            .collect();
        addresses.dedup();
        Ok(Finding::good(format!("{host} is {}", addresses.join(", "))))
    }

    async fn network(&mut self) -> Finding {
        let Some(target) = self.target.as_ref().filter(|_| !self.addresses.is_empty()) else {
            return Finding::skipped("no address");
        };
        let place = format!("{}:{}", target.host(), target.port());
        let mut last = String::new();
        for address in &self.addresses {
            match tokio::time::timeout(DIAL_LIMIT, TcpStream::connect(address)).await {
                Ok(Ok(socket)) => {
                    self.socket = Some(socket);
                    return Finding::good(format!("{place} answers"));
                }
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => last = format!("no answer within {} s", DIAL_LIMIT.as_secs()),
            }
        }
        Finding::problem(
            format!("{place} does not answer: {last}"),
            "Check PGPORT, and that firewalls allow connections to it; Private Link needs an endpoint of its own for port 5432",
        )
    }

    async fn certificate(&mut self) -> Finding {
        let Some((target, socket)) = self.target.as_ref().zip(self.socket.take()) else {
            return Finding::skipped("no connection");
        };
        match target.uses_tls() {
            true => tls::examine(socket, &self.config, target).await,
            false => Finding::skipped("plaintext, on this machine only"),
        }
    }

    async fn login(&mut self) -> Result<Finding, Error> {
        if let Some(missing) = self.missing {
            return Ok(Finding::skipped(missing));
        }
        let started = Instant::now();
        let (client, connection) = self.lakebase.connect().await?;
        let took = started.elapsed();
        tokio::spawn(connection);
        self.client = Some(client);
        let target = self.lakebase.target().await?;
        Ok(Finding::good(format!(
            "as {}, in {} ms",
            target.user(),
            took.as_millis()
        )))
    }

    fn client(&self) -> Result<&Client, Finding> {
        self.client
            .as_ref()
            .ok_or_else(|| Finding::skipped("no login"))
    }

    async fn role(&mut self) -> Result<Finding, Error> {
        let client = match self.client() {
            Ok(client) => client,
            Err(finding) => return Ok(finding),
        };
        let sql = "SELECT session_user::text, rolcreaterole, \
             has_database_privilege(current_database(), 'CREATE'), \
             ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid \
                 WHERE m.member = r.oid ORDER BY 1) \
             FROM pg_roles r WHERE rolname = session_user";
        let row = match client.query_one(sql, &[]).await {
            Ok(row) => row,
            Err(error) => return Ok(refused(&error)),
        };
        let (name, makes_roles, makes_schemas): (String, bool, bool) =
            (row.get(0), row.get(1), row.get(2));
        let groups: Vec<String> = row.get(3);
        let mut can = Vec::new();
        if makes_schemas {
            can.push("create schemas".to_owned());
        }
        if makes_roles {
            can.push("create roles".to_owned());
        }
        if !groups.is_empty() {
            can.push(format!("act as {}", groups.join(", ")));
        }
        Ok(Finding::good(match can.is_empty() {
            true => format!("{name}, without privileges of its own on the database"),
            false => format!("{name}, may {}", can.join(", ")),
        }))
    }

    async fn schema(&mut self) -> Result<Finding, Error> {
        let client = match self.client() {
            Ok(client) => client,
            Err(finding) => return Ok(finding),
        };
        let chosen = self.lakebase.schema();
        let schema = chosen.unwrap_or("public");
        let sql = "SELECT has_schema_privilege(oid, 'USAGE'), has_schema_privilege(oid, 'CREATE') \
                   FROM pg_namespace WHERE nspname = $1";
        let row = match client.query_opt(sql, &[&schema]).await {
            Ok(row) => row,
            Err(error) => return Ok(refused(&error)),
        };
        let Some(row) = row else {
            return Ok(Finding::problem(
                format!("{schema:?} does not exist"),
                "Let the migrations create it (`create_schema`), or check LAKEBASE_SCHEMA",
            ));
        };
        Ok(match (row.get(0), row.get(1)) {
            (true, true) => {
                Finding::good(format!("{schema:?}, may use it and create objects in it"))
            }
            (true, false) if chosen.is_some() => Finding::good(format!(
                "{schema:?}, may use it; only other roles create objects in it"
            )),
            (_, _) if chosen.is_none() => Finding::warning(
                "no privilege to create objects in \"public\", as usual for a service principal",
                "Choose a schema of its own: LAKEBASE_SCHEMA",
            ),
            (_, _) => Finding::problem(
                format!("no privilege to use {schema:?}"),
                format!(
                    "Its owner must run: lakebase --schema {} grant {} --access write",
                    for_shells(schema),
                    for_shells(self.user())
                ),
            ),
        })
    }

    async fn rows(&mut self) -> Result<Finding, Error> {
        let client = match self.client() {
            Ok(client) => client,
            Err(finding) => return Ok(finding),
        };
        let schema = self.lakebase.schema().unwrap_or("public");
        let bypasses = match row_security_bypasses(client, self.user(), schema).await {
            Err(error) if error.sqlstate() == Some("3F000") => {
                return Ok(Finding::skipped("no schema"));
            }
            bypasses => bypasses?,
        };
        if bypasses.is_empty() {
            let text = format!("applies to this role wherever a table of {schema:?} has it");
            return Ok(Finding::good(text));
        }
        let facts = bypasses
            .iter()
            .map(|bypass| (bypass.table.clone(), bypass.to_string()));
        let text = format!("does not apply to this role in {schema:?}");
        let fix = "As intended for a role that migrates. To restrict a role, give it neither BYPASSRLS nor membership in the \
            tables' owner; on its own tables, FORCE ROW LEVEL SECURITY";
        Ok(Finding::warning(text, fix).with(facts.collect::<Vec<_>>()))
    }

    fn user(&self) -> &str {
        self.target.as_ref().map_or("", |target| target.user())
    }

    async fn versions(&mut self) -> Result<Finding, Error> {
        let own = concat!("lakebase ", env!("CARGO_PKG_VERSION"));
        let Ok(client) = self.client() else {
            return Ok(Finding::good(own));
        };
        let server = client.query_one("SHOW server_version", &[]).await;
        Ok(Finding::good(match server {
            Ok(row) => format!("{own}, Postgres {}", row.get::<_, String>(0)),
            Err(_) => own.to_owned(),
        }))
    }
}

/// Quotes a word for a shell.
fn for_shells(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./-_".contains(c);
    match !word.is_empty() && !word.starts_with('-') && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// A query that Postgres rejected.
fn refused(error: &tokio_postgres::Error) -> Finding {
    let database = error.as_db_error();
    let message = database.map_or_else(|| error.to_string(), |db| db.message().to_owned());
    let sqlstate = database.map(|db| db.code().code());
    let advice = advice(sqlstate.unwrap_or_default(), &message);
    Finding::problem(message.clone(), advice.unwrap_or("Try again"))
}
