//! Where peers are dialled, if not where the membership says: through a relay, or behind address translation.
//!
//! Owns the node file's `[dial]` table at work. Who answers there is checked by the peers' own handshake, as anywhere.

use std::collections::BTreeMap;

use replication::{ConnectError, Connector, PeerConnection};

/// Looks every address up before it is dialled.
#[derive(Debug, Clone)]
pub(crate) struct Redirecting<C> {
    inner: C,
    /// Address in the membership → address that is dialled.
    dial: BTreeMap<String, String>,
}

impl<C> Redirecting<C> {
    /// Dials through `inner`; an address without a row in `dial` is dialled as it is.
    pub(crate) fn new(inner: C, dial: BTreeMap<String, String>) -> Self {
        Self { inner, dial }
    }
}

#[tonic::async_trait]
impl<C: Connector> Connector for Redirecting<C> {
    async fn connect(&self, address: &str, name: Option<&str>) -> Result<PeerConnection, ConnectError> {
        let address = self.dial.get(address).map_or(address, String::as_str);
        self.inner.connect(address, name).await
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;

    /// Notes what it is asked to dial, and refuses.
    #[derive(Default)]
    struct Noting(Mutex<Vec<String>>);

    #[tonic::async_trait]
    impl Connector for Noting {
        async fn connect(&self, address: &str, _: Option<&str>) -> Result<PeerConnection, ConnectError> {
            self.0.lock().expect("no panic elsewhere").push(address.to_owned());
            Err(ConnectError::Io(io::ErrorKind::ConnectionRefused.into()))
        }
    }

    #[tokio::test]
    async fn only_addresses_with_a_row_are_dialled_elsewhere() {
        let dial = BTreeMap::from([("10.0.9.12:7610".to_owned(), "127.0.0.1:9".to_owned())]);
        let connector = Redirecting::new(Noting::default(), dial);
        for address in ["10.0.9.12:7610", "10.0.9.13:7610"] {
            assert!(connector.connect(address, None).await.is_err(), "{address} is refused");
        }
        assert_eq!(*connector.inner.0.lock().expect("no panic"), ["127.0.0.1:9", "10.0.9.13:7610"]);
    }
}
