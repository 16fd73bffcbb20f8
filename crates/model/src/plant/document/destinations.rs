//! Destinations as they are written.
//!
//! Owns their keys and the rules of one destination. A text that may hold a secret is never repeated in a complaint.

use std::path::PathBuf;
use std::time::Duration;

use super::diagnostics::Spanned;
use super::names::{Named, read_id};
use super::reader::Fields;
use crate::plant::route::{Pattern, Route};
use crate::plant::{Csv, Destination, DestinationKind, Http, Secret, Start};

/// Bytes of a URL or directory at most.
const MAX_LOCATION: usize = 2_048;

/// A destination with the places of what is checked later.
#[derive(Debug)]
pub(super) struct RawDestination<'d> {
    pub(super) id: Spanned<&'d str>,
    /// Every pattern of its routes that does not refuse.
    pub(super) patterns: Vec<Spanned<&'d str>>,
    /// What it comes to; nothing where it was complained about.
    pub(super) destination: Option<Destination>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Csv,
}

/// Reads `[[destination]]`.
pub(super) fn read_destination(mut fields: Fields<'_>) -> Option<RawDestination<'_>> {
    let id = read_id(&mut fields, "id", Named::Word);
    let kind = fields.choice("kind", &[("http", Kind::Http), ("csv", Kind::Csv)]);
    fields.missing("kind", "\"http\" or \"csv\"");
    let required = fields.boolean("required").unwrap_or(true);
    let start = fields.choice("start", &[("now", Start::Now), ("oldest", Start::Oldest)]);
    let (routes, patterns) = read_routes(&mut fields);
    let kind = match kind.map(|kind| kind.value) {
        Some(Kind::Http) => read_http(&mut fields).map(DestinationKind::Http),
        Some(Kind::Csv) => read_csv(&mut fields).map(DestinationKind::Csv),
        // Which other keys there are depends on the kind: nothing can be said of them.
        None => {
            return id.map(|id| RawDestination { id, patterns, destination: None });
        }
    };
    fields.finish();
    let destination = kind.filter(|_| !fields.is_broken()).and_then(|kind| {
        let start = start.map(|start| start.value).unwrap_or_default();
        Some(Destination { id: id?.value.to_owned(), kind, required, start, routes })
    });
    Some(RawDestination { id: id?, patterns, destination })
}

fn read_routes<'d>(fields: &mut Fields<'d>) -> (Vec<Route>, Vec<Spanned<&'d str>>) {
    let mut routes = Vec::new();
    let mut positive = Vec::new();
    let single = fields.texts("tags");
    let several = fields.tables("route");
    if let (Some(single), true) = (&single, fields.has("route")) {
        let help = "tags = [ … ] is short for route = [ { tags = [ … ] } ]";
        fields.error_with_help(single.place, "expected either `tags` or `route`, found both", help);
    }
    if let Some(single) = single {
        routes.extend(read_route(fields, single, &mut positive));
    }
    if several.is_empty()
        && let Some(item) = fields.item("route").filter(|item| item.value.is_array())
    {
        fields.error(item.place, "expected a route such as { tags = [\"hall-2/**\"] }, found none");
    }
    for mut route in several {
        let tags = route.texts("tags");
        route.missing("tags", "a list of tag patterns");
        route.finish();
        match tags {
            Some(tags) if !route.is_broken() => routes.extend(read_route(fields, tags, &mut positive)),
            // It was complained about; so there is no destination without it.
            _ => fields.mark_broken(),
        }
    }
    (routes, positive)
}

fn read_route<'d>(
    fields: &mut Fields<'d>,
    tags: Spanned<Vec<Spanned<&'d str>>>,
    positive: &mut Vec<Spanned<&'d str>>,
) -> Option<Route> {
    let mut takes = false;
    for text in &tags.value {
        match Pattern::parse(text.value) {
            Ok(pattern) if pattern.refuses() => {}
            Ok(_) => {
                takes = true;
                positive.push(*text);
            }
            Err(error) => {
                takes = true;
                fields.error(text.place, error.to_string());
            }
        }
    }
    if !takes {
        let help = "begin with \"**\" to take everything, or leave the route out";
        fields.error_with_help(
            tags.place,
            "expected a pattern without !, without which nothing is taken",
            help,
        );
    }
    Some(Route { tags: tags.value.iter().map(|text| text.value.to_owned()).collect() })
}

fn read_http(fields: &mut Fields<'_>) -> Option<Http> {
    let url = fields.text("url");
    fields.missing("url", "http://… or https://…");
    if let Some(url) = url
        && let Err((message, help)) = check_url(url.value)
    {
        fields.error_with_help(url.place, message, help);
    }
    let token = read_secret(fields);
    let ca = fields.text("ca").and_then(|file| read_ca(fields, file));
    let timeout = fields.duration("timeout", "100ms", "10m");
    let max_records = fields.integer("max-records", 1, 100_000);
    Some(Http {
        url: url?.value.to_owned(),
        token,
        ca,
        timeout: timeout.map_or(Duration::from_secs(10), |timeout| timeout.value),
        max_records: max_records.map_or(1_000, |most| u32::try_from(most.value).expect("within its bounds")),
    })
}

/// Why a text is no URL to post to, and what to do. Never repeats the text: it may hold a password.
fn check_url(url: &str) -> Result<(), (&'static str, &'static str)> {
    let example = "for example url = \"https://historian/ingest\"";
    let lower = url.to_ascii_lowercase();
    let rest = lower.strip_prefix("http://").or_else(|| lower.strip_prefix("https://"));
    let rest = rest.ok_or(("expected a URL that begins with http:// or https://, found another", example))?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // An `@` in the path is harmless, but a password with a slash in it would make it look like one.
    if rest.contains('@') {
        let help = "write token = { file = \"historian.token\" } beside it; an @ in a path is written %40";
        return Err(("expected a URL without user name and password: secrets are references", help));
    }
    if url.len() > MAX_LOCATION
        || url.contains(|c: char| c.is_control() || c.is_whitespace() || c == '#' || !c.is_ascii())
    {
        return Err(("expected a URL of ASCII characters without spaces and #, found others", example));
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
    };
    let is_port =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0);
    if !is_host || !port.is_none_or(is_port) {
        return Err((
            "expected a host, and behind a colon a port, in the URL, found something else",
            example,
        ));
    }
    Ok(())
}

/// Reads a reference to a secret. Never repeats what was written instead of one.
fn read_secret(fields: &mut Fields<'_>) -> Option<Secret> {
    let help = "write token = { file = \"historian.token\" } or token = { env = \"HISTORIAN_TOKEN\" }";
    let item = fields.item("token")?;
    let Some(table) = item.value.as_table_like() else {
        fields.error_with_help(item.place, "expected a reference to a secret, found something else", help);
        return None;
    };
    let mut secret = Fields::new(table, item.place, fields.notes());
    let file = secret.text("file");
    let env = secret.text("env");
    secret.finish();
    let is_named =
        |text: &str| !text.is_empty() && text.len() <= MAX_LOCATION && !text.contains(char::is_control);
    let found = match (file, env) {
        (Some(file), None) if is_named(file.value) => Some(Secret::File(PathBuf::from(file.value))),
        (None, Some(env)) if is_named(env.value) && !env.value.contains('=') => {
            Some(Secret::Env(env.value.to_owned()))
        }
        _ => None,
    };
    if secret.is_broken() {
        fields.mark_broken();
    } else if found.is_none() {
        fields.error_with_help(item.place, "expected one of `file` and `env` with a name behind it", help);
    }
    found
}

/// Certificates of a file of the bundle.
fn read_ca(fields: &mut Fields<'_>, name: Spanned<&str>) -> Option<String> {
    let notes = fields.notes();
    let Some(text) = super::find_file(name, notes).and_then(|file| notes.text(file)) else {
        fields.mark_broken();
        return None;
    };
    if text.contains("PRIVATE KEY-----") {
        let help =
            "take the key out: what is applied here is stored on every node and shown to whoever may read it";
        fields.error_with_help(
            name.place,
            format!("expected certificates only, found a private key in {:?}", name.value),
            help,
        );
        return None;
    }
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        fields.error(name.place, format!("expected a certificate in PEM in {:?}, found none", name.value));
        return None;
    }
    Some(text.to_owned())
}

fn read_csv(fields: &mut Fields<'_>) -> Option<Csv> {
    let directory = fields.text_with_variables("directory");
    fields.missing("directory", "where the files go");
    if let Some(directory) = directory
        && let Err(message) = check_directory(directory.value)
    {
        fields.error(directory.place, message);
    }
    let every = fields.duration("every", "1s", "31d");
    let max_rows = fields.integer("max-rows", 1, i64::from(u32::MAX));
    Some(Csv {
        directory: PathBuf::from(directory?.value),
        every: every.map_or(Duration::from_secs(60), |every| every.value),
        max_rows: max_rows.map_or(1_000_000, |rows| u32::try_from(rows.value).expect("within its bounds")),
    })
}

/// Why a text is no directory. `${var.NAME}` is filled in by each node from its node file.
fn check_directory(text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > MAX_LOCATION || text.contains(char::is_control) {
        return Err(format!("expected a directory of 1 to {MAX_LOCATION} bytes, found {:?}", text));
    }
    let mut rest = text;
    while let Some((_, behind)) = rest.split_once("${") {
        let is_name = |name: &str| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        };
        let variable =
            behind.split_once('}').filter(|(inside, _)| inside.strip_prefix("var.").is_some_and(is_name));
        let Some((_, after)) = variable else {
            return Err(format!(
                "expected ${{var.NAME}} with a name from [vars] of the node file, found {text:?}"
            ));
        };
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_those_one_can_post_to() {
        for url in
            ["http://127.0.0.1:8090/ingest", "https://historian", "HTTPS://h:8443/a?b=c", "http://[::1]:80/"]
        {
            assert_eq!(check_url(url), Ok(()), "{url}");
        }
        for url in [
            "",
            "historian",
            "ftp://h/",
            "http://",
            "http://:80/",
            "http://h:0/",
            "http://h:x/",
            "http://h:/",
            "http://a b/",
            "http://h/#x",
            "http://[::x]/",
            "https://u:p@h/",
            "https://u@h/",
            "https://u:a/b@h/",
            "http://hü/",
        ] {
            assert!(check_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn directories_may_hold_variables_of_the_node_and_nothing_else() {
        for text in ["/mnt/reports", "${var.csv-dir}", "/a/${var.x}/${var.y_2}"] {
            assert_eq!(check_directory(text), Ok(()), "{text}");
        }
        for text in ["", "${csv-dir}", "${var.}", "${var.a", "${var.a b}", "/a${", "a\nb"] {
            assert!(check_directory(text).is_err(), "{text}");
        }
    }
}
