//! What the environment says instead of the node file.
//!
//! - A variable is `HOLDFAST_` and the key with its table, in capitals, `_` for every `.` and `-`:
//!   `HOLDFAST_LISTEN_ADMIN` is `admin` in `[listen]`. Every key has one, but for `[dial]`.
//! - A list is written as in the file, `["a", "b"]`, or with commas: `a,b`.
//! - Of `[vars]` those can be replaced that the file has.
//! - What cannot be read as its key wants it stays a text: whoever reads the key complains.

use toml_edit::{Array, Item, Table, Value, value};

/// What is written for a key.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Flag,
    List,
}

/// Every key of the node file but those of `[dial]` and `[vars]`.
const KEYS: [(&str, Kind); 24] = [
    ("name", Kind::Text),
    ("role", Kind::Text),
    ("data-dir", Kind::Text),
    ("profile", Kind::Text),
    ("insecure", Kind::Flag),
    ("cluster.name", Kind::Text),
    ("cluster.members", Kind::List),
    ("cluster.join", Kind::List),
    ("listen.peers", Kind::Text),
    ("listen.admin", Kind::Text),
    ("listen.health", Kind::Text),
    ("listen.advertise", Kind::Text),
    ("listen.advertise-admin", Kind::Text),
    ("tls.ca", Kind::Text),
    ("tls.cert", Kind::Text),
    ("tls.key", Kind::Text),
    ("field.bind", Kind::Text),
    ("limits.disk", Kind::Text),
    ("limits.memory", Kind::Text),
    ("hooks.on-lead", Kind::List),
    ("hooks.on-yield", Kind::List),
    ("hooks.timeout", Kind::Text),
    ("fence.dead-man", Kind::Flag),
    ("fence.nftables", Kind::Flag),
];

/// A variable that is set.
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) text: String,
    /// A node file with nothing in it but the key that the variable stands for.
    pub(super) table: Table,
}

/// Everything that `environment` says instead of `file`.
pub(super) fn variables(file: &Table, environment: impl Fn(&str) -> Option<String>) -> Vec<Variable> {
    let vars = file.get("vars").and_then(Item::as_table_like);
    let vars = vars.into_iter().flat_map(|vars| vars.iter());
    let keys = KEYS.into_iter().map(|(key, kind)| (key.to_owned(), kind));
    let keys = keys.chain(vars.map(|(key, _)| (format!("vars.{key}"), Kind::Text)));
    let set = |(key, kind): (String, Kind)| {
        let name = variable(&key);
        let text = environment(&name)?;
        Some(Variable { table: table_of(&key, kind.read(&text)), name, text })
    };
    keys.filter_map(set).collect()
}

fn variable(key: &str) -> String {
    format!("HOLDFAST_{}", key.replace(['.', '-'], "_").to_uppercase())
}

fn table_of(key: &str, item: Item) -> Table {
    let mut root = Table::new();
    match key.split_once('.') {
        Some((name, key)) => {
            let mut table = Table::new();
            table.insert(key, item);
            root.insert(name, Item::Table(table));
        }
        None => {
            root.insert(key, item);
        }
    }
    root
}

impl Kind {
    fn read(self, text: &str) -> Item {
        match self {
            Self::Text => value(text),
            Self::Flag => text.parse::<bool>().map_or_else(|_| value(text), value),
            Self::List => list(text).map_or_else(|| value(text), value),
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
            ("HOLDFAST_FENCE_DEAD_MAN", "false"),
            ("HOLDFAST_FENCE_NFTABLES", "true"),
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
        assert!(!config.fence.dead_man && config.fence.nftables);
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
        ]);
        let expected = [
            "HOLDFAST_PROFILE: expected \"lan\", \"lan-fast\" or \"wan\", found \"lam\" (did you mean \"lan\"?)",
            "HOLDFAST_INSECURE: expected true or false, found the text \"yes\"",
            "HOLDFAST_LISTEN_ADMIN: expected IP:PORT, found \"here\"",
            "HOLDFAST_HOOKS_ON_LEAD: expected a list of texts such as [\"a\", \"b\"], found the text \"[a\"",
        ];
        assert_eq!(problems.expect_err("four problems"), expected);
        let problems = said(&[("HOLDFAST_TLS_CA", "ca.pem")]).expect_err("[tls] needs all three");
        let expected = "HOLDFAST_TLS_CA: expected the key `cert` (this node's certificate), found none";
        assert!(problems.iter().any(|problem| problem == expected), "{problems:?}");
    }

    #[test]
    fn a_variable_replaces_what_is_wrong_in_the_file() {
        let wrong = FILE.replace("127.0.0.1:2", "nowhere");
        assert!(NodeConfig::parse(&wrong, |_| None).is_err(), "it is wrong");
        let admin = |key: &str| (key == "HOLDFAST_LISTEN_ADMIN").then(|| "127.0.0.1:3".to_owned());
        assert_eq!(NodeConfig::parse(&wrong, admin).expect("it is valid").listen.admin.port(), 3);
    }
}
