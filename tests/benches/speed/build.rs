//! Build time and size: small programs with the default features of the crates, built from scratch.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::Table;

const CRATES: &str = "crates";
const SECONDS: &str = "clean release build, s";
const MEGABYTES: &str = "stripped program, MB";

struct Program {
    name: &'static str,
    /// `{root}` is the path of this workspace.
    dependencies: &'static str,
    body: &'static str,
}

const PROGRAMS: [Program; 6] = [
    Program {
        name: "tokio-postgres with rustls, by itself",
        dependencies: "tokio-postgres = \"0.7\"\ntokio-postgres-rustls = { version = \"0.14\", default-features = false, \
                       features = [\"ring\"] }\nrustls = { version = \"0.23\", default-features = false, features = [\"ring\"] }",
        body: "let roots = rustls::RootCertStore::empty();\n\
               let tls = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())\
               .with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth();\n\
               tokio_postgres::connect(\"\", tokio_postgres_rustls::MakeRustlsConnect::new(tls)).await?;",
    },
    Program {
        name: "`lakebase-core`",
        dependencies: "lakebase-core = { path = \"{root}/lakebase-core\" }",
        body: "lakebase_core::Lakebase::from_env()?.credential().await?;",
    },
    Program {
        name: "diesel-async with bb8, by itself",
        dependencies: "diesel-async = { version = \"0.9\", features = [\"postgres\", \"bb8\"] }",
        body: "use diesel_async::pooled_connection::AsyncDieselConnectionManager as Manager;\n\
               let manager = Manager::<diesel_async::AsyncPgConnection>::new(\"\");\n\
               diesel_async::pooled_connection::bb8::Pool::builder().build(manager).await?;",
    },
    Program {
        name: "`lakebase-diesel`",
        dependencies: "lakebase-diesel = { path = \"{root}/lakebase-diesel\" }",
        body: "let lakebase = lakebase_diesel::Lakebase::from_env()?;\nlakebase_diesel::bb8::connect(&lakebase).await?;",
    },
    Program {
        name: "SeaORM with rustls, by itself",
        dependencies: "sea-orm = { version = \"2.0\", features = [\"sqlx-postgres\", \"runtime-tokio-rustls\"] }",
        body: "sea_orm::Database::connect(\"postgres://localhost\").await?;",
    },
    Program {
        name: "`lakebase-seaorm`",
        dependencies: "lakebase-seaorm = { path = \"{root}/lakebase-seaorm\" }",
        body: "let lakebase = lakebase_seaorm::Lakebase::from_env()?;\nlakebase_seaorm::connect(&lakebase).await?;",
    },
];

pub fn measure() -> Vec<Table> {
    let mut table = Table::new("build", "", &[CRATES, SECONDS, MEGABYTES]);
    for program in &PROGRAMS {
        crate::eprint(program.name);
        let [crates, seconds, megabytes] = program.build();
        table.add(program.name, CRATES, crates);
        table.add(program.name, SECONDS, seconds);
        table.add(program.name, MEGABYTES, megabytes);
    }
    vec![table]
}

impl Program {
    fn build(&self) -> [f64; 3] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("the workspace");
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let mut manifest = String::from(
            "[package]\nname = \"program\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n\
             [profile.release]\nstrip = true\n\n[dependencies]\n\
             tokio = { version = \"1\", features = [\"macros\", \"rt-multi-thread\"] }\n",
        );
        let root_path = root.display().to_string();
        let dependencies = self.dependencies.replace("{root}", &root_path);
        writeln!(manifest, "{dependencies}").expect("text");
        let main = format!(
            "#[tokio::main]\nasync fn main() -> Result<(), Box<dyn std::error::Error>> {{\n{}\nOk(())\n}}\n",
            self.body,
        );
        std::fs::create_dir(at("src")).expect("a folder");
        std::fs::write(at("Cargo.toml"), manifest).expect("written");
        std::fs::write(at("src/main.rs"), main).expect("written");
        // For the same versions.
        std::fs::copy(root.join("Cargo.lock"), at("Cargo.lock")).expect("copied");
        let cargo = |arguments: &[&str]| {
            let output = Command::new(env!("CARGO"))
                .args(arguments)
                .current_dir(folder.path())
                .env("CARGO_TARGET_DIR", at("target"))
                .output()
                .expect("cargo");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {stderr}", self.name);
            String::from_utf8(output.stdout).expect("text")
        };
        let tree = cargo(&[
            "tree",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--no-dedupe",
        ]);
        let crates: std::collections::BTreeSet<&str> = tree
            .lines()
            .filter_map(|line| line.split(" (").next())
            .filter(|name| !name.starts_with("program "))
            .collect();
        cargo(&["fetch"]);
        let began = Instant::now();
        cargo(&["build", "--release"]);
        let seconds = began.elapsed().as_secs_f64();
        let program = std::fs::metadata(at("target/release/program")).expect("a program");
        [crates.len() as f64, seconds, program.len() as f64 / 1e6]
    }
}
