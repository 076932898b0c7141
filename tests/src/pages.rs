//! The Rust code of the README and of the book compiles.

macro_rules! page {
    ($name:ident, $file:literal) => {
        #[doc = include_str!($file)]
        mod $name {}
    };
}

page!(readme, "../../README.md");
page!(authentication, "../../docs/authentication.md");
page!(branches, "../../docs/branches.md");
page!(configuration, "../../docs/configuration.md");
page!(databricks_apps, "../../docs/databricks-apps.md");
page!(laptop, "../../docs/laptop.md");
page!(many_users, "../../docs/many-users.md");
page!(migrations, "../../docs/migrations.md");
page!(moving_diesel, "../../docs/moving-diesel.md");
page!(moving_seaorm, "../../docs/moving-seaorm.md");
page!(proxy, "../../docs/proxy.md");
page!(rehearsal, "../../docs/rehearsal.md");
page!(roles, "../../docs/roles.md");
page!(scale_to_zero, "../../docs/scale-to-zero.md");
page!(service_principal, "../../docs/service-principal.md");
page!(swap, "../../docs/swap.md");
