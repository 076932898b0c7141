//! The builder: settings, and the start.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use super::LocalLakebase;
use crate::Error;
use crate::branches::{Branches, Serving, expiry};
use crate::certs::Authority;
use crate::clock::PlatformClock;
use crate::compute::Compute;
use crate::control::{self, Controls};
use crate::events::EventLog;
use crate::faults::Faults;
use crate::gateway::{Gateway, Rules};
use crate::ids::Ids;
use crate::issuer::Issuer;
use crate::place::Place;
use crate::postgres::{DATABASE, Origin, Postgres, Private, Secret, quote_ident};
use crate::roles::Roles;
use crate::workspace::{self, People, Switch, Workspace};

const HOUR: Duration = Duration::from_secs(3600);

/// Starts a [`LocalLakebase`] with settings of your own.
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    token_lifetime: Duration,
    workspace_token_lifetime: Duration,
    api_port: u16,
    postgres_port: u16,
    postgres_ip: Ipv4Addr,
    origin: Origin,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            token_lifetime: HOUR,
            workspace_token_lifetime: HOUR,
            api_port: 0,
            postgres_port: 0,
            postgres_ip: Ipv4Addr::LOCALHOST,
            origin: Origin::Look,
        }
    }
}

impl Builder {
    /// Lifetime of database tokens, at least 1 s. Default: an hour, as on the platform.
    pub fn token_lifetime(mut self, lifetime: Duration) -> Self {
        self.token_lifetime = lifetime;
        self
    }

    /// Lifetime of workspace tokens. Default: an hour.
    pub fn workspace_token_lifetime(mut self, lifetime: Duration) -> Self {
        self.workspace_token_lifetime = lifetime;
        self
    }

    /// Port of the workspace API on 127.0.0.1. Default: a free one.
    pub fn api_port(mut self, port: u16) -> Self {
        self.api_port = port;
        self
    }

    /// Port of Postgres on 127.0.0.1. Default: a free one.
    pub fn postgres_port(mut self, port: u16) -> Self {
        self.postgres_port = port;
        self
    }

    /// Another loopback address for Postgres, for clients that have no setting for the port. On Linux, all of
    /// 127.0.0.0/8 is loopback, so port 5432 is free on another address even if a Postgres runs on 127.0.0.1.
    pub fn postgres_ip(mut self, ip: Ipv4Addr) -> Self {
        self.postgres_ip = ip;
        self
    }

    /// Folder with `initdb` and `postgres`. Default: `pg_config`, `PATH` and the usual folders are searched.
    pub fn postgres_bin_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.origin = Origin::Programs(dir.into());
        self
    }

    /// URL of a superuser on a running server on this machine. A database and roles are created there and dropped
    /// at the end; after a killed run, the next start drops them. Clients use the database name
    /// `databricks_postgres`, although its name on the server is another one.
    pub fn postgres_url(mut self, url: impl Into<String>) -> Self {
        self.origin = Origin::Url(Secret(url.into()));
        self
    }

    /// Starts the local Lakebase.
    ///
    /// # Errors
    ///
    /// If there is no folder for temporary files, Postgres is missing or does not start, or a port is in use. The
    /// text has the next step.
    ///
    /// # Cancel safety
    ///
    /// Cancelling it removes everything, as each part removes itself when it is dropped.
    pub async fn start(self) -> Result<LocalLakebase, Error> {
        if self.token_lifetime < Duration::from_secs(1) {
            return Err(Error::new("the token lifetime must be at least 1 s"));
        }
        if !self.postgres_ip.is_loopback() {
            return Err(Error::new(format!(
                "{} is not a loopback address",
                self.postgres_ip
            )));
        }
        // First, as all other files are created in this folder.
        let folder = Private::create().await?;
        let api = listen(Ipv4Addr::LOCALHOST, self.api_port, "the workspace API").await?;
        let gateway_listener = listen(self.postgres_ip, self.postgres_port, "Postgres").await?;
        let address = |listener: &TcpListener| {
            listener
                .local_addr()
                .map_err(|error| Error::because("cannot read the port", error))
        };
        let (api_address, gateway_address) = (address(&api)?, address(&gateway_listener)?);
        let postgres = Postgres::start(self.origin, folder.path()).await?;
        if let Some((name, socket)) = postgres.socket() {
            folder.link(name, &socket)?;
        }

        let place = Place::production(self.postgres_ip);
        let authority = Authority::new()?;
        let tls = authority.server(place.names())?;
        let ca_file = folder.write("ca.pem", authority.pem())?;

        let events = Arc::new(EventLog::new());
        let clock = Arc::new(PlatformClock::default());
        let issuer = Arc::new(Issuer::new(
            Arc::clone(&clock),
            self.token_lifetime,
            self.workspace_token_lifetime,
        ));
        let faults = Arc::new(Faults::default());
        let switch = Arc::new(Switch::default());
        let stop = watch::Sender::new(false);
        let gateway = Arc::new(Gateway {
            place: place.clone(),
            tls: TlsAcceptor::from(tls),
            issuer: Arc::clone(&issuer),
            roles: Roles::default(),
            ids: Ids::default(),
            compute: Arc::new(Compute::new(Arc::clone(&events))),
            postgres: postgres.server().clone(),
            events: Arc::clone(&events),
            rules: Rules::default(),
            identities_versions: tokio::sync::Mutex::default(),
        });
        let serving = Serving::start(
            Arc::clone(&gateway),
            postgres,
            gateway_listener,
            gateway_address,
        );
        let branches = Arc::new(Branches::new(
            authority,
            Arc::clone(&clock),
            Arc::clone(&events),
            place.clone(),
            serving,
        ));
        let people = People {
            client_id: Uuid::new_v4().to_string(),
            user: format!("ana.{:08x}@example.com", Uuid::new_v4().as_fields().0),
            request_token: format!("ghrt{}", Uuid::new_v4().simple()),
        };
        let key = Uuid::new_v4().simple().to_string();
        let id_token = issuer.id_token(&people.client_id, None);
        folder.write("id-token", &id_token)?;
        for (name, text) in workspace::scripts(&api_address.to_string(), &key) {
            folder.write_program(name, &text)?;
        }
        let control = folder.path().join(control::SOCKET);
        let control = UnixListener::bind(&control).map_err(|error| {
            Error::because(format!("cannot listen on {}", control.display()), error)
        })?;
        let workspace = Arc::new(Workspace {
            base_url: format!("http://{api_address}"),
            host: api_address.to_string(),
            key: key.clone(),
            issuer: Arc::clone(&issuer),
            clock: Arc::clone(&clock),
            events: Arc::clone(&events),
            faults: Arc::clone(&faults),
            switch: Arc::clone(&switch),
            branches: Arc::clone(&branches),
            people: people.clone(),
        });
        let controls = Controls {
            gateway: Arc::clone(&gateway),
            branches: Arc::clone(&branches),
            clock: Arc::clone(&clock),
            switch: Arc::clone(&switch),
            about: vec![
                ("workspace", workspace.base_url.clone()),
                ("endpoint", place.endpoint_path()),
                ("host", format!("{}:{}", place.host, gateway_address.port())),
                ("database", DATABASE.to_owned()),
                ("service principal", people.client_id.clone()),
                ("person", people.user.clone()),
            ],
        };
        let tasks = vec![
            tokio::spawn(control::serve(controls, control, stop.subscribe())),
            tokio::spawn(expiry::run(Arc::clone(&branches), stop.subscribe())),
            tokio::spawn(workspace::serve(workspace, api, stop.subscribe())),
        ];
        let local = LocalLakebase {
            client_id: people.client_id,
            client_secret: format!("dose{}", Uuid::new_v4().simple()),
            user: people.user,
            user_token: format!("dapi{}", Uuid::new_v4().simple()),
            user_password: format!("pass{}", Uuid::new_v4().simple()),
            id_token,
            request_token: people.request_token,
            key,
            dir: folder.path().to_owned(),
            ca_file,
            api: api_address,
            gateway_address,
            issuer,
            clock,
            faults,
            switch,
            events,
            branches,
            gateway,
            folder: Some(folder),
            stop,
            tasks,
        };
        local.populate().await?;
        Ok(local)
    }
}

async fn listen(ip: Ipv4Addr, port: u16, what: &str) -> Result<TcpListener, Error> {
    TcpListener::bind((ip, port))
        .await
        .map_err(|error| Error::because(format!("cannot listen on {ip}:{port} for {what}: choose another port, or omit it for a free one"), error))
}

impl LocalLakebase {
    /// Creates the initial identities.
    async fn populate(&self) -> Result<(), Error> {
        let auth = self.gateway.postgres.databricks_auth_sql();
        self.sql(&auth).await?;
        if self.gateway.postgres.is_own() {
            // For databases that are created later.
            self.sql_in("template1", &auth).await?;
        }
        self.issuer
            .add_service_principal(&self.client_id, &self.client_secret);
        self.issuer.add_pat(&self.user_token, &self.user);
        self.issuer.add_password(&self.user, &self.user_password);
        for identity in [&self.client_id, &self.user] {
            self.create_role(identity).await?;
            self.open_database(DATABASE, identity).await?;
        }
        // The person created the project, so it owns the database and may create roles.
        let (user, database) = (
            quote_ident(&self.user),
            quote_ident(self.gateway.postgres.database(DATABASE)),
        );
        self.sql(&format!("ALTER DATABASE {database} OWNER TO {user}"))
            .await?;
        // On a borrowed server, roles created in plain SQL would not be removed.
        match self.gateway.postgres.is_own() {
            true => {
                self.sql(&format!("ALTER ROLE {user} CREATEROLE CREATEDB"))
                    .await
            }
            false => Ok(()),
        }
    }
}
