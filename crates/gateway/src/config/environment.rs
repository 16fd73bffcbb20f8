//! What the environment says instead of the node file.
//!
//! - A variable is `HOLDFAST_` and the key with its table, in capitals, `_` for every `.` and `-`:
//!   `HOLDFAST_LISTEN_ADMIN` is `admin` in `[listen]`. Every key has one, but for `[dial]`.
//! - A list is written as in the file, `["a", "b"]`, or with commas: `a,b`.
//! - Of `[vars]` those can be replaced that the file has.

use std::net::{IpAddr, SocketAddr};

use toml_edit::{Array, DocumentMut, Item, Table, Value, value};

/// What can be written for a key.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Flag,
    List,
    Address,
    Ip,
}

/// Every key of the node file.
const KEYS: [(&str, Kind); 23] = [
    ("name", Kind::Text),
    ("role", Kind::Text),
    ("data-dir", Kind::Text),
    ("profile", Kind::Text),
    ("insecure", Kind::Flag),
    ("cluster.name", Kind::Text),
    ("cluster.members", Kind::List),
    ("cluster.join", Kind::List),
    ("listen.peers", Kind::Address),
    ("listen.admin", Kind::Address),
    ("listen.health", Kind::Address),
    ("listen.advertise", Kind::Text),
    ("listen.advertise-admin", Kind::Text),
    ("tls.ca", Kind::Text),
    ("tls.cert", Kind::Text),
    ("tls.key", Kind::Text),
    ("field.bind", Kind::Ip),
    ("limits.disk", Kind::Text),
    ("limits.memory", Kind::Text),
    ("hooks.on-lead", Kind::List),
    ("hooks.on-yield", Kind::List),
    ("hooks.timeout", Kind::Text),
    // Its keys are the file's own.
    ("vars", Kind::Text),
];

/// The node file with what `environment` says instead of it; what cannot be is added to `problems`.
pub(super) fn replace(
    text: &str,
    environment: impl Fn(&str) -> Option<String>,
    problems: &mut Vec<String>,
) -> String {
    // What is no TOML is complained about by whoever reads it.
    let Ok(mut document) = text.parse::<DocumentMut>() else { return text.to_owned() };
    let vars = document.get("vars").and_then(Item::as_table_like);
    let vars = vars.map(|vars| vars.iter().map(|(key, _)| format!("vars.{key}")).collect());
    let vars: Vec<String> = vars.unwrap_or_default();
    let keys = KEYS.into_iter().filter(|(key, _)| *key != "vars");
    let keys = keys.chain(vars.iter().map(|key| (key.as_str(), Kind::Text)));
    let mut changed = false;
    for (key, kind) in keys {
        let variable = variable(key);
        let Some(found) = environment(&variable) else { continue };
        match kind.read(&found) {
            Ok(item) => changed |= put(&mut document, key, item),
            Err(expected) => problems.push(format!("{variable}: {found:?} is not {expected}")),
        }
    }
    if changed { document.to_string() } else { text.to_owned() }
}

fn variable(key: &str) -> String {
    format!("HOLDFAST_{}", key.replace(['.', '-'], "_").to_uppercase())
}

fn put(document: &mut DocumentMut, key: &str, item: Item) -> bool {
    let (table, key) = key.split_once('.').unwrap_or(("", key));
    let table = match table {
        "" => Some(document.as_table_mut() as &mut dyn toml_edit::TableLike),
        name => document.entry(name).or_insert(Item::Table(Table::new())).as_table_like_mut(),
    };
    // A table of that name that is none is complained about by whoever reads it.
    table.is_some_and(|table| {
        table.insert(key, item);
        true
    })
}

impl Kind {
    /// The text as a value; else what is expected.
    fn read(self, text: &str) -> Result<Item, &'static str> {
        match self {
            Self::Text => Ok(value(text)),
            Self::Flag => text.parse::<bool>().map(value).map_err(|_| "true or false"),
            Self::Address => text.parse::<SocketAddr>().map(|_| value(text)).map_err(|_| "IP:PORT"),
            Self::Ip => text.parse::<IpAddr>().map(|_| value(text)).map_err(|_| "an IP address"),
            Self::List => list(text).map(value).ok_or("a list: a,b or [\"a\", \"b\"]"),
        }
    }
}

fn list(text: &str) -> Option<Array> {
    if text.trim_start().starts_with('[') {
        let list = text.trim().parse::<Value>().ok()?;
        return list.as_array().cloned();
    }
    Some(text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::super::NodeConfig;

    const FILE: &str = "name = \"a\"\ndata-dir = \"/d\"\ninsecure = true\n[cluster]\nname = \"p\"\n\
        members = [\"a=127.0.0.1:1\"]\n[listen]\npeers = \"127.0.0.1:1\"\nadmin = \"127.0.0.1:2\"\n\
        [vars]\ncsv-dir = \"/mnt\"\n";

    fn said(pairs: &[(&str, &str)]) -> Result<NodeConfig, Vec<String>> {
        let found =
            |key: &str| pairs.iter().find(|(known, _)| *known == key).map(|(_, found)| (*found).to_owned());
        NodeConfig::parse(FILE, found)
    }

    #[test]
    fn every_key_can_be_replaced() {
        let config = said(&[
            ("HOLDFAST_NAME", "b"),
            ("HOLDFAST_ROLE", "gateway"),
            ("HOLDFAST_DATA_DIR", "/other"),
            ("HOLDFAST_PROFILE", "wan"),
            ("HOLDFAST_INSECURE", "true"),
            ("HOLDFAST_CLUSTER_NAME", "plant-8"),
            ("HOLDFAST_CLUSTER_MEMBERS", "b=127.0.0.1:11, c=127.0.0.1:12"),
            ("HOLDFAST_LISTEN_PEERS", "127.0.0.1:11"),
            ("HOLDFAST_LISTEN_ADMIN", "127.0.0.1:21"),
            ("HOLDFAST_LISTEN_HEALTH", "127.0.0.1:22"),
            ("HOLDFAST_LISTEN_ADVERTISE_ADMIN", "b:21"),
            ("HOLDFAST_FIELD_BIND", "127.0.0.9"),
            ("HOLDFAST_LIMITS_DISK", "2GiB"),
            ("HOLDFAST_LIMITS_MEMORY", "1GiB"),
            ("HOLDFAST_HOOKS_ON_LEAD", "[\"/bin/sh\", \"-c\", \"echo a,b\"]"),
            ("HOLDFAST_HOOKS_ON_YIELD", "/bin/true"),
            ("HOLDFAST_HOOKS_TIMEOUT", "7s"),
            ("HOLDFAST_VARS_CSV_DIR", "/share"),
        ])
        .expect("it is valid");
        assert_eq!((config.name.as_str(), config.cluster.as_str()), ("b", "plant-8"));
        assert_eq!(config.members.len(), 2);
        assert_eq!(config.times, replication::LeaseTimes::WAN);
        assert_eq!(config.listen.health.map(|address| address.port()), Some(22));
        assert_eq!(config.api_address(), "b:21");
        assert_eq!(config.field_bind.map(|ip| ip.to_string()).as_deref(), Some("127.0.0.9"));
        assert_eq!((config.disk_limit, config.memory.limit()), (Some(2 << 30), 1 << 30));
        assert_eq!(config.hooks.on_lead, ["/bin/sh", "-c", "echo a,b"]);
        assert_eq!((config.hooks.on_yield.len(), config.hooks.timeout.as_secs()), (1, 7));
        assert_eq!(config.vars["csv-dir"], "/share");

        let joins = said(&[
            ("HOLDFAST_CLUSTER_MEMBERS", ""),
            ("HOLDFAST_CLUSTER_JOIN", "127.0.0.1:9"),
            ("HOLDFAST_LISTEN_ADVERTISE", "b:11"),
        ])
        .expect("it is valid");
        assert_eq!((joins.join, joins.address.as_str()), (vec!["127.0.0.1:9".to_owned()], "b:11"));
    }

    #[test]
    fn what_cannot_be_is_said_by_the_name_of_the_variable_and_with_the_rest() {
        let problems = said(&[
            ("HOLDFAST_INSECURE", "yes"),
            ("HOLDFAST_LISTEN_ADMIN", "here"),
            ("HOLDFAST_HOOKS_ON_LEAD", "[a"),
            ("HOLDFAST_PROFILE", "lam"),
        ])
        .expect_err("four problems");
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert_eq!(problems[1], "HOLDFAST_LISTEN_ADMIN: \"here\" is not IP:PORT");
        let no_certificate = said(&[("HOLDFAST_TLS_CA", "ca.pem")]).expect_err("[tls] needs all three");
        assert!(no_certificate[0].contains("cert"), "{no_certificate:?}");
    }
}
