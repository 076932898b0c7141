//! Connections to the Postgres behind the gateway.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut as _, Bytes, BytesMut};
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::password::scram_sha_256;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::Host;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::running::{copy_name, mark};
use super::{
    ADMIN, DATABASE, NATIVE_GROUP, OUR_PATH, SOCKET, quote_ident, quote_literal, with_path,
};
use crate::Error;
use crate::protocol::{self, AuthStep};

const DATABRICKS_AUTH: &str = include_str!("databricks_auth.sql");

/// A TCP or Unix stream.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Our own server or a borrowed one. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Server(Arc<Kind>);

enum Kind {
    /// Our own: it trusts every client of the socket.
    Own { socket_dir: PathBuf },
    /// A borrowed one, which requires a password from every role. Only we know those of token roles.
    Running {
        config: Box<tokio_postgres::Config>,
        database: String,
        passwords: Mutex<HashMap<String, String>>,
        /// Postgres rejects two concurrent changes of a role.
        adopting: tokio::sync::Mutex<()>,
    },
}

impl Server {
    pub(crate) fn own(socket_dir: PathBuf) -> Self {
        Self(Arc::new(Kind::Own { socket_dir }))
    }

    pub(crate) fn running(config: tokio_postgres::Config, database: String) -> Self {
        Self(Arc::new(Kind::Running {
            config: Box::new(config),
            database,
            passwords: Mutex::default(),
            adopting: tokio::sync::Mutex::default(),
        }))
    }

    /// Translates the clients' name of a database to the server's.
    pub(crate) fn database<'a>(&'a self, name: &'a str) -> &'a str {
        match &*self.0 {
            Kind::Running { database, .. } if name == DATABASE => database,
            _ => name,
        }
    }

    /// Connects to the server without the gateway.
    pub(crate) async fn open(&self) -> io::Result<Box<dyn Stream>> {
        let config = match &*self.0 {
            Kind::Own { socket_dir } => {
                return Ok(Box::new(
                    UnixStream::connect(socket_dir.join(SOCKET)).await?,
                ));
            }
            Kind::Running { config, .. } => config,
        };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        match config.get_hosts().first() {
            Some(Host::Tcp(name)) => {
                let socket = TcpStream::connect((name.as_str(), port)).await?;
                let _ = socket.set_nodelay(true);
                Ok(Box::new(socket))
            }
            Some(Host::Unix(dir)) => {
                let path = dir.join(format!(".s.PGSQL.{port}"));
                Ok(Box::new(UnixStream::connect(path).await?))
            }
            None => Err(io::Error::new(io::ErrorKind::NotFound, "no host")),
        }
    }

    /// Opens a superuser's session with this search path. Settings of the database's owner have no effect, so objects
    /// of other roles cannot replace the functions that we call.
    pub(crate) async fn admin(&self, database: &str, path: &str) -> Result<Client, Error> {
        let mut config = match &*self.0 {
            Kind::Own { socket_dir } => {
                let mut config = tokio_postgres::Config::new();
                config.host_path(socket_dir).user(ADMIN);
                config
            }
            Kind::Running { config, .. } => (**config).clone(),
        };
        with_path(&mut config, path);
        let (client, connection) = config
            .dbname(self.database(database))
            .application_name("lakebase-local")
            .connect(NoTls)
            .await
            .map_err(|error| Error::because("cannot reach the local Postgres", error))?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Returns whether the server requires a password from this native role.
    pub(crate) async fn asks_password(&self, role: &str) -> bool {
        if let Kind::Running { .. } = &*self.0 {
            return true;
        }
        let Ok(admin) = self.admin("postgres", OUR_PATH).await else {
            return false;
        };
        let sql = format!(
            "SELECT 1 FROM pg_auth_members WHERE roleid = {}::regrole AND member = \
             (SELECT oid FROM pg_roles WHERE rolname = $1)",
            quote_literal(NATIVE_GROUP)
        );
        matches!(admin.query_opt(&sql, &[&role]).await, Ok(Some(_)))
    }

    /// SQL that creates a role for logins with tokens. One batch is one transaction, so every role has its mark.
    pub(crate) fn create_role_sql(&self, role: &str) -> String {
        let ident = quote_ident(role);
        match &*self.0 {
            Kind::Own { .. } => format!("CREATE ROLE {ident} LOGIN"),
            Kind::Running {
                database,
                passwords,
                ..
            } => {
                let password = Uuid::new_v4().to_string();
                let sql = format!(
                    "CREATE ROLE {ident} LOGIN PASSWORD {}; {}",
                    quote_literal(&scram_sha_256(password.as_bytes())),
                    mark(role, database)
                );
                let mut passwords = passwords.lock().unwrap_or_else(PoisonError::into_inner);
                passwords.insert(role.to_owned(), password);
                sql
            }
        }
    }

    pub(crate) fn is_own(&self) -> bool {
        matches!(&*self.0, Kind::Own { .. })
    }

    /// SQL that runs in every new database.
    pub(crate) fn databricks_auth_sql(&self) -> String {
        let mark = self.mark().map(quote_literal);
        DATABRICKS_AUTH.replace("%MARK%", mark.as_deref().unwrap_or("NULL::text"))
    }

    /// The comment that marks our roles on a borrowed server.
    pub(crate) fn mark(&self) -> Option<&str> {
        match &*self.0 {
            Kind::Own { .. } => None,
            Kind::Running { database, .. } => Some(database),
        }
    }

    /// Prepares an accepted login of a role that `databricks_create_role` created: on a borrowed server, sets a
    /// password that we know. Runs at each login, as the role may have been dropped and created again.
    pub(crate) async fn adopt(&self, role: &str) -> Result<(), Error> {
        let Kind::Running {
            database,
            passwords,
            adopting,
            ..
        } = &*self.0
        else {
            return Ok(());
        };
        let _turn = adopting.lock().await;
        let password = {
            let mut passwords = passwords.lock().unwrap_or_else(PoisonError::into_inner);
            let password = passwords.entry(role.to_owned());
            password
                .or_insert_with(|| Uuid::new_v4().to_string())
                .clone()
        };
        let failed = |error| Error::because("cannot prepare the role", error);
        let admin = self.admin("postgres", OUR_PATH).await?;
        let sql = "SELECT format('ALTER ROLE %I PASSWORD %L', rolname, $3::text) FROM pg_roles \
                   WHERE rolname = $1 AND shobj_description(oid, 'pg_authid') = $2";
        let hash = scram_sha_256(password.as_bytes());
        let ours = admin.query_one(sql, &[&role, database, &hash]).await;
        let alter: String = ours.map_err(failed)?.get(0);
        admin.batch_execute(&alter).await.map_err(failed)
    }

    /// SQL that creates a role with a native password.
    pub(crate) fn create_native_role_sql(&self, role: &str, password: &str) -> String {
        // Hashed here, so that no statement log contains the password.
        let create = format!(
            "CREATE ROLE {} LOGIN PASSWORD {}",
            quote_ident(role),
            quote_literal(&scram_sha_256(password.as_bytes()))
        );
        match &*self.0 {
            Kind::Own { .. } => format!("{create} IN ROLE {NATIVE_GROUP}"),
            Kind::Running { database, .. } => format!("{create}; {}", mark(role, database)),
        }
    }

    /// Returns a new name for a copy of the database.
    pub(crate) fn copy_name(&self) -> String {
        match &*self.0 {
            Kind::Own { .. } => format!("scratch_{}", Uuid::new_v4().simple()),
            Kind::Running { database, .. } => copy_name(database),
        }
    }

    /// The password of a token role, if the server requires one.
    pub(crate) fn password_of(&self, role: &str) -> Option<String> {
        match &*self.0 {
            Kind::Own { .. } => None,
            Kind::Running { passwords, .. } => {
                let passwords = passwords.lock().unwrap_or_else(PoisonError::into_inner);
                passwords.get(role).cloned()
            }
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::Own { socket_dir } => f.debug_tuple("Own").field(socket_dir).finish(),
            Kind::Running { database, .. } => f.debug_tuple("Running").field(database).finish(),
        }
    }
}

/// Runs the password authentication after the startup message. Returns the server's last message, for the client.
pub(crate) async fn log_in(
    server: &mut (impl AsyncRead + AsyncWrite + Unpin),
    password: &str,
) -> io::Result<Bytes> {
    const CLEARTEXT: u32 = 3;
    const SASL: u32 = 10;
    const SASL_CONTINUE: u32 = 11;
    const SASL_FINAL: u32 = 12;

    let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
    loop {
        let message = protocol::read_message(server).await?;
        if matches!(
            protocol::auth_step(&message),
            AuthStep::Done | AuthStep::Refused { .. }
        ) {
            return Ok(message);
        }
        let (code, rest) = message
            .get(5..)
            .and_then(|body| body.split_first_chunk::<4>())
            .filter(|_| message[0] == b'R')
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no answer to a login"))?;
        let answer: Vec<u8> = match (u32::from_be_bytes(*code), rest) {
            (CLEARTEXT, _) => [password.as_bytes(), b"\0"].concat(),
            (SASL, _) => {
                let first = scram.message();
                let length = u32::try_from(first.len()).unwrap_or(u32::MAX).to_be_bytes();
                [SCRAM_SHA_256.as_bytes(), b"\0", &length, first].concat()
            }
            (SASL_CONTINUE, data) => {
                scram.update(data)?;
                scram.message().to_vec()
            }
            (SASL_FINAL, data) => {
                scram.finish(data)?;
                continue;
            }
            (other, _) => {
                let text = format!("unsupported authentication method {other}");
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
        };
        let mut packet = BytesMut::with_capacity(answer.len() + 5);
        packet.put_u8(b'p');
        packet.put_u32(u32::try_from(answer.len() + 4).unwrap_or(u32::MAX));
        packet.extend_from_slice(&answer);
        server.write_all(&packet).await?;
    }
}
