//! The node file as a whole: its top, the order of its tables, and what holds across them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use model::Role;
use model::plant::document::{Diagnostic, Diagnostics, Fields, Notes, Spanned};
use replication::LeaseTimes;
use toml_edit::Document;

use super::{NodeConfig, certificates, cluster, environment, fence, hooks, limits, listen};

/// Reads a node file that lies at `path`, with what `environment` says instead of it.
pub(super) fn read(
    text: &str,
    path: &Path,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<NodeConfig, Vec<String>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let parsed = Document::parse(text);
    let variables = match &parsed {
        Ok(document) => environment::variables(document.as_table(), environment),
        Err(_) => Vec::new(),
    };
    let file = path.display().to_string();
    let texts = variables.iter().map(|variable| (variable.name.as_str(), variable.text.as_bytes()));
    let notes = Notes::new(std::iter::once((file.as_str(), text.as_bytes())).chain(texts));
    let start = |name: &str| notes.file(name).expect("it was given just now").place;
    let config = match &parsed {
        Ok(document) => {
            let mut fields = Fields::new(document.as_table(), start(&file), &notes).plain();
            for variable in &variables {
                fields = fields.with(&variable.table, start(&variable.name));
            }
            read_node(fields, path.parent().unwrap_or(Path::new("")))
        }
        Err(error) => {
            notes.not_toml(start(&file), text, error);
            None
        }
    };
    let found = notes.into_diagnostics();
    match config {
        Some(config) if found.is_empty() => Ok(config),
        _ => Err(problems(&found, &file)),
    }
}

/// All tables are read, whatever is wrong with the others; without what must be there, there is nothing.
fn read_node(mut fields: Fields<'_>, folder: &Path) -> Option<NodeConfig> {
    let name = fields.text("name");
    fields.missing("name", "what people call this node");
    let role = fields.parsed("role", role);
    let data_dir = fields.text("data-dir");
    fields.missing("data-dir", "where everything durable lies");
    let times = fields.choice("profile", &LeaseTimes::PROFILES);
    let insecure = fields.flag("insecure");
    let cluster = fields.table("cluster").map(|table| cluster::read(table, name.map(|name| name.value)));
    fields.missing("cluster", "a table with `name` and `members`");
    let plaintext = insecure.is_some_and(|insecure| insecure.value);
    let listen = fields.table("listen").and_then(|table| listen::read(table, plaintext));
    fields.missing("listen", "a table with `peers` and `admin`");
    let tls = fields.table("tls").and_then(|table| {
        let holder = cluster.as_ref().and_then(|cluster| cluster.name.as_deref()).zip(name);
        certificates::read(table, folder, holder.map(|(cluster, name)| (cluster, name.value)))
    });
    check_secrecy(&mut fields, insecure);
    let field_bind = fields.table("field").and_then(read_field);
    let dial = fields.table("dial").map(cluster::read_dial).unwrap_or_default();
    let vars = fields.table("vars").map(read_vars).unwrap_or_default();
    let (disk_limit, memory) = fields.table("limits").map(limits::read).unwrap_or_default();
    let hooks = fields.table("hooks").map(hooks::read).unwrap_or_default();
    let fence = fields.table("fence").map(fence::read).unwrap_or_default();
    fields.finish();

    let (name, cluster, (listen, advertised)) = (name?.value, cluster?, listen?);
    let listed = cluster.members.iter().find(|(known, _)| known == name).map(|(_, address)| address.clone());
    Some(NodeConfig {
        name: name.to_owned(),
        role: role.map_or(Role::Gateway, |role| role.value),
        data_dir: PathBuf::from(data_dir?.value),
        times: times.map_or(LeaseTimes::LAN, |times| times.value),
        cluster: cluster.name?,
        members: cluster.members,
        join: cluster.join,
        address: listed.or(advertised).unwrap_or_else(|| listen.peers.to_string()),
        listen,
        tls,
        field_bind,
        dial,
        vars,
        disk_limit,
        memory,
        hooks,
        fence,
    })
}

fn role(text: &str) -> Result<Role, String> {
    match text {
        "gateway" => Ok(Role::Gateway),
        "witness" => Err("\"witness\" is reserved and cannot be run yet; use \"gateway\"".to_owned()),
        other => Err(format!("expected \"gateway\", found {other:?}")),
    }
}

/// Either certificates or the word for plaintext, and not both.
fn check_secrecy(fields: &mut Fields<'_>, insecure: Option<Spanned<bool>>) {
    let has_certificates = fields.has("tls");
    match insecure {
        Some(Spanned { value: true, place }) if has_certificates => {
            fields.error(place, "HF-1201: this asks for plaintext, and [tls] for TLS; keep one");
        }
        Some(Spanned { value: true, .. }) => {}
        // What it says is not known, which was complained about.
        None if fields.has("insecure") => {}
        _ if has_certificates => {}
        _ => {
            let message = "HF-1201: without certificates a node starts only with insecure = true, on loopback \
                           addresses";
            fields.error_with_help(fields.place(), message, "`holdfast init` makes certificates");
        }
    }
}

fn read_field(mut fields: Fields<'_>) -> Option<IpAddr> {
    let bind = fields.parsed("bind", |text| {
        text.parse::<IpAddr>().map_err(|_| format!("expected an IP address, found {text:?}"))
    });
    fields.finish();
    bind.map(|bind| bind.value)
}

fn read_vars(fields: Fields<'_>) -> BTreeMap<String, String> {
    let texts = fields.free_texts().into_iter();
    texts.map(|(name, text)| (name.to_owned(), text.value.to_owned())).collect()
}

/// What people see: each problem with file, line and column, or with the name of its variable.
fn problems(found: &Diagnostics, file: &str) -> Vec<String> {
    let one = |problem: &Diagnostic| {
        let place = match problem.file == file {
            true => format!("{file}:{}:{}", problem.line, problem.column),
            false => problem.file.clone(),
        };
        let help = problem.help.as_ref().map_or_else(String::new, |help| format!(" ({help})"));
        format!("{place}: {}{help}", problem.message)
    };
    let more = (found.more > 0).then(|| format!("and {} more", found.more));
    found.list.iter().map(one).chain(more).collect()
}
