//! `[cluster]` and `[dial]`: who belongs together, and where they reach each other.

use std::collections::BTreeMap;

use model::plant::document::{Fields, Spanned};

use super::is_host_and_port;

/// `[cluster]`, as far as it could be read.
pub(super) struct Cluster {
    pub(super) name: Option<String>,
    pub(super) members: Vec<(String, String)>,
    pub(super) join: Vec<String>,
}

/// Reads the table in the file of `node`, if its name could be read.
pub(super) fn read(mut fields: Fields<'_>, node: Option<&str>) -> Cluster {
    let listed = fields.texts("members").filter(|list| !list.value.is_empty());
    let members: Vec<_> = listed.iter().flat_map(|list| &list.value).copied().collect();
    let members = read_members(&mut fields, &members);
    let joining = fields.texts("join").filter(|list| !list.value.is_empty());
    let mut join = Vec::new();
    for address in joining.iter().flat_map(|list| &list.value) {
        if !is_host_and_port(address.value) {
            let expected = "HOST:PORT of a member's peer port";
            fields.error(address.place, format!("expected {expected}, found {:?}", address.value));
        }
        join.push(address.value.to_owned());
    }
    match (&listed, &joining) {
        (Some(_), Some(join)) => {
            fields.error(join.place, "a node founds with `members` or joins with `join`, not both");
        }
        // Whoever is missing may be among what could not be read.
        _ if fields.is_broken() => {}
        (None, None) => fields.error_with_help(
            fields.place(),
            "expected at least one of the `members`, this node",
            "a node that is added to a cluster has `join` instead",
        ),
        (Some(list), None) => {
            if let Some(node) = node
                && !members.iter().any(|(name, _)| name == node)
            {
                fields.error(list.place, format!("HF-1104: expected this node, {node:?}, among the members"));
            }
        }
        (None, Some(_)) => {}
    }
    let name = fields.text("name").map(|name| name.value.to_owned());
    fields.missing("name", "the cluster's name, the same on all nodes");
    fields.finish();
    Cluster { name, members, join }
}

/// Reads `NAME=HOST:PORT` of each.
fn read_members(fields: &mut Fields<'_>, listed: &[Spanned<&str>]) -> Vec<(String, String)> {
    let mut members: Vec<(String, String)> = Vec::new();
    for member in listed {
        match member.value.split_once('=') {
            Some((name, address)) if !name.is_empty() && is_host_and_port(address) => {
                if members.iter().any(|(known, _)| known == name) {
                    fields.error(member.place, format!("expected each member once, found {name:?} again"));
                }
                members.push((name.to_owned(), address.to_owned()));
            }
            _ => fields.error(member.place, format!("expected NAME=HOST:PORT, found {:?}", member.value)),
        }
    }
    members
}

/// Reads `[dial]`: what the membership says, and what is dialled instead.
pub(super) fn read_dial(fields: Fields<'_>) -> BTreeMap<String, String> {
    let notes = fields.notes();
    let mut dial = BTreeMap::new();
    for (address, instead) in fields.free_texts() {
        if !is_host_and_port(address) || !is_host_and_port(instead.value) {
            let found = format!("{address:?} = {:?}", instead.value);
            notes.error(instead.place, format!("expected \"HOST:PORT\" = \"HOST:PORT\", found {found}"));
        }
        dial.insert(address.to_owned(), instead.value.to_owned());
    }
    dial
}
