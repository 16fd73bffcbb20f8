//! Who calls: the one place where a connection becomes a principal.
//!
//! The certificate's name comes first where there is one; until connections have certificates, the caller's claim is
//! taken. It is written into the audit trail either way, with a mark that it is a claim.

use tonic::Request;

/// Metadata key of the claimed name.
pub const PRINCIPAL: &str = "holdfast-principal";
const MAX_NAME: usize = 128;

/// The name under which a request is kept in the log.
pub(crate) fn principal<T>(request: &Request<T>) -> String {
    let claimed = request.metadata().get(PRINCIPAL).and_then(|value| value.to_str().ok());
    let name: String =
        claimed.unwrap_or("unknown").chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    format!("{name} (claimed)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_certificate_is_marked_as_a_claim() {
        let mut request = Request::new(());
        assert_eq!(principal(&request), "unknown (claimed)");
        request.metadata_mut().insert(PRINCIPAL, "anna".parse().expect("ascii"));
        assert_eq!(principal(&request), "anna (claimed)");
    }
}
