//! `[listen]`: the sockets of a node, and how they are called from elsewhere.

use std::net::SocketAddr;

use model::plant::document::Fields;

use super::is_host_and_port;

/// What is listened on, each on its own.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Peers.
    pub peers: SocketAddr,
    /// gRPC API: admin, ingest.
    pub admin: SocketAddr,
    /// Health and metrics over HTTP; off if absent.
    pub health: Option<SocketAddr>,
    /// Where the other nodes reach this node's API, `host:port`, if that is not the address it listens on.
    pub advertise_admin: Option<String>,
}

/// Reads the table: what is listened on, and where peers reach `peers` if that is another address (only a node that joins
/// says so). `plaintext` says that callers need not prove who they are.
pub(super) fn read(mut fields: Fields<'_>, plaintext: bool) -> Option<(Listen, Option<String>)> {
    let peers = address(&mut fields, "peers", plaintext);
    fields.missing("peers", "IP:PORT to listen on for the other nodes");
    let admin = address(&mut fields, "admin", plaintext);
    fields.missing("admin", "IP:PORT to listen on for callers of the API");
    let health = address(&mut fields, "health", plaintext);
    let advertise = advertised(&mut fields, "advertise");
    let advertise_admin = advertised(&mut fields, "advertise-admin");
    fields.finish();
    Some((Listen { peers: peers?, admin: admin?, health, advertise_admin }, advertise))
}

fn address(fields: &mut Fields<'_>, key: &'static str, plaintext: bool) -> Option<SocketAddr> {
    let address = fields.parsed(key, |text| {
        text.parse::<SocketAddr>().map_err(|_| format!("expected IP:PORT, found {text:?}"))
    })?;
    if plaintext && !address.value.ip().is_loopback() {
        fields.error(address.place, "HF-1201: plaintext is allowed on loopback addresses only");
    }
    Some(address.value)
}

fn advertised(fields: &mut Fields<'_>, key: &'static str) -> Option<String> {
    let address = fields.parsed(key, |text| match is_host_and_port(text) {
        true => Ok(text.to_owned()),
        false => Err(format!("expected HOST:PORT, found {text:?}")),
    });
    address.map(|address| address.value)
}
