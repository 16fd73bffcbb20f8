//! Who calls: the one place where a connection becomes a principal.
//!
//! - The certificate's name comes first where there is one. Without one the caller's claim is taken, with a mark that it is
//!   a claim.
//! - A node that hands on a call names the caller as it knew them, mark included; its own certificate vouches for that.

use tls::Role;
use tonic::Request;

use crate::security::Identity;

/// Metadata key of the claimed name.
pub const PRINCIPAL: &str = "holdfast-principal";
/// Metadata key of a call that another node handed on: that node's name.
pub const HOP: &str = "holdfast-forwarded-by";
const MAX_NAME: usize = 128;
const CLAIMED: &str = " (claimed)";

/// The name under which a request is kept in the log.
pub(crate) fn principal<T>(request: &Request<T>) -> String {
    let claimed = request.metadata().get(PRINCIPAL).and_then(|value| value.to_str().ok());
    let claimed =
        claimed.map(|name| -> String { name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect() });
    let certified = request.extensions().get::<Identity>().and_then(|identity| identity.0.as_ref());
    match certified {
        Some(subject) if subject.role() == Role::Node => {
            claimed.unwrap_or_else(|| format!("node {}", subject.name()))
        }
        Some(subject) => subject.name().to_owned(),
        None => {
            let claimed = claimed.as_deref().unwrap_or("unknown");
            // One that was handed on bears the mark already.
            format!("{}{CLAIMED}", claimed.strip_suffix(CLAIMED).unwrap_or(claimed))
        }
    }
}

/// Whether another node handed this call on.
pub(crate) fn is_forwarded<T>(request: &Request<T>) -> bool {
    request.metadata().contains_key(HOP)
}

#[cfg(test)]
mod tests {
    use tls::Subject;

    use super::*;

    fn request(claim: Option<&str>, certified: Option<(Role, &str)>) -> Request<()> {
        let mut request = Request::new(());
        if let Some(claim) = claim {
            request.metadata_mut().insert(PRINCIPAL, claim.parse().expect("ascii"));
        }
        let subject = certified.map(|(role, name)| Subject::new("plant-7", role, name).expect("plain names"));
        request.extensions_mut().insert(Identity(subject));
        request
    }

    #[test]
    fn a_name_without_a_certificate_is_marked_as_a_claim_once() {
        assert_eq!(principal(&Request::new(())), "unknown (claimed)");
        assert_eq!(principal(&request(Some("anna"), None)), "anna (claimed)");
        assert_eq!(principal(&request(Some("anna (claimed)"), None)), "anna (claimed)");
    }

    #[test]
    fn the_name_in_the_certificate_comes_before_any_claim() {
        assert_eq!(principal(&request(Some("anna"), Some((Role::Operator, "bert")))), "bert");
    }

    #[test]
    fn a_node_that_hands_on_a_call_vouches_for_its_caller() {
        let node = Some((Role::Node, "gateway-b"));
        assert_eq!(principal(&request(Some("anna"), node)), "anna");
        assert_eq!(principal(&request(Some("anna (claimed)"), node)), "anna (claimed)");
        assert_eq!(principal(&request(None, node)), "node gateway-b");
    }
}
