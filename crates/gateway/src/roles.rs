//! Which role may call what on the API, and the layer that asks before anything else is done.
//!
//! - Every method has a row in [`TABLE`]; one without needs the highest role.
//! - An admin may do everything. So may a node: it hands on calls whose caller it has asked itself, and whoever holds the
//!   key of a node can do as much on the peer port.
//! - In plaintext nobody has a role and nothing is refused: that is for loopback alone.

use std::task::{Context, Poll};

use axum::http::{Request, Response};
use futures::future::{Either, Ready, ready};
use tls::{Role, Subject};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::admin::forbidden;
use crate::security::Identity;

/// The least that a method needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Any certificate of the cluster.
    Anybody,
    /// Looks.
    Viewer,
    /// Runs the plant.
    Operator,
    /// Changes what the plant and the cluster are.
    Admin,
    /// Pushes samples.
    Pusher,
}

impl Needs {
    /// Whether `role` may.
    pub(crate) fn is_met_by(self, role: Role) -> bool {
        match role {
            Role::Admin | Role::Node => true,
            Role::Operator => matches!(self, Self::Anybody | Self::Viewer | Self::Operator),
            Role::Viewer => matches!(self, Self::Anybody | Self::Viewer),
            Role::Pusher => matches!(self, Self::Anybody | Self::Pusher),
        }
    }

    /// The role to ask for.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Anybody => "any",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Pusher => "pusher",
        }
    }
}

/// Every method of the API: service, method, and the least it needs.
const TABLE: &[(&str, &[(&str, Needs)])] = &[
    (
        "holdfast.v1.Admin",
        &[
            ("GetStatus", Needs::Viewer),
            ("ListAlarms", Needs::Viewer),
            ("ValidateConfig", Needs::Viewer),
            ("PlanConfig", Needs::Viewer),
            ("ApplyConfig", Needs::Admin),
            ("GetConfig", Needs::Viewer),
            ("ListRevisions", Needs::Viewer),
            ("DiffConfig", Needs::Viewer),
            ("RollbackConfig", Needs::Admin),
            ("ListMembers", Needs::Viewer),
            ("AddMember", Needs::Admin),
            ("PromoteMember", Needs::Admin),
            ("ReplaceMember", Needs::Admin),
            ("RemoveMember", Needs::Admin),
            ("DrainMember", Needs::Operator),
            ("ResumeMember", Needs::Operator),
            ("TransferLeadership", Needs::Operator),
            ("ListDevices", Needs::Viewer),
            ("SetDeviceEnabled", Needs::Operator),
            ("ProbeDevice", Needs::Operator),
            ("ListTags", Needs::Viewer),
            ("ReadTags", Needs::Operator),
            ("WatchTags", Needs::Viewer),
            ("ListDestinations", Needs::Viewer),
            ("SetDestinationPaused", Needs::Operator),
            ("ListQuarantine", Needs::Viewer),
            ("RetryQuarantine", Needs::Operator),
            ("GetBufferStats", Needs::Viewer),
            ("PeekBuffer", Needs::Viewer),
            ("ListGaps", Needs::Viewer),
            ("ListEvents", Needs::Viewer),
        ],
    ),
    ("holdfast.v1.Ingest", &[("Push", Needs::Pusher)]),
    (
        "grpc.health.v1.Health",
        &[("Check", Needs::Anybody), ("List", Needs::Anybody), ("Watch", Needs::Anybody)],
    ),
    ("grpc.reflection.v1.ServerReflection", &[("ServerReflectionInfo", Needs::Anybody)]),
];

/// What the method at `path`, `/SERVICE/METHOD`, needs; none if it has no row.
fn listed(path: &str) -> Option<Needs> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let (_, methods) = TABLE.iter().find(|(name, _)| *name == service)?;
    methods.iter().find(|(name, _)| *name == method).map(|(_, needs)| *needs)
}

/// Lets `caller` call the method at `path`, or says what it would need.
fn admit(path: &str, caller: Option<&Subject>) -> Result<(), Status> {
    let Some(caller) = caller else { return Ok(()) };
    let needs = listed(path).unwrap_or(Needs::Admin);
    if needs.is_met_by(caller.role()) {
        return Ok(());
    }
    let method = path.rsplit('/').next().unwrap_or_default();
    Err(forbidden(method, needs.name(), caller))
}

/// Asks for the role before a call reaches its service.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RoleLayer;

impl<S> Layer<S> for RoleLayer {
    type Service = RoleCheck<S>;

    fn layer(&self, inner: S) -> RoleCheck<S> {
        RoleCheck(inner)
    }
}

/// A service behind a [`RoleLayer`].
#[derive(Debug, Clone)]
pub(crate) struct RoleCheck<S>(S);

impl<S> Service<Request<Body>> for RoleCheck<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let caller = request.extensions().get::<Identity>().and_then(|identity| identity.0.as_ref());
        match admit(request.uri().path(), caller) {
            Ok(()) => Either::Left(self.0.call(request)),
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Methods of the services that are served on the API, from the compiled `.proto` files.
    fn served() -> BTreeSet<String> {
        let methods = wire::methods().into_iter().filter(|path| !path.starts_with("/holdfast.peer."));
        methods.collect()
    }

    #[test]
    fn every_method_of_the_api_has_a_row_and_every_row_a_method() {
        let served = served();
        assert!(served.contains("/holdfast.v1.Admin/ApplyConfig"), "saw only {served:?}");
        for path in &served {
            assert!(listed(path).is_some(), "{path} has no row: which role may call it?");
        }
        for (service, methods) in TABLE.iter().filter(|(service, _)| service.starts_with("holdfast.")) {
            for (method, _) in *methods {
                let path = format!("/{service}/{method}");
                assert!(served.contains(&path), "{path} has a row and does not exist");
            }
        }
    }

    #[test]
    fn each_role_may_do_what_it_is_for_and_no_more() {
        let may = |role: Role| -> Vec<&str> {
            let all = [Needs::Anybody, Needs::Viewer, Needs::Operator, Needs::Admin, Needs::Pusher];
            all.into_iter().filter(|needs| needs.is_met_by(role)).map(Needs::name).collect()
        };
        assert_eq!(may(Role::Viewer), ["any", "viewer"]);
        assert_eq!(may(Role::Operator), ["any", "viewer", "operator"]);
        assert_eq!(may(Role::Pusher), ["any", "pusher"]);
        for role in [Role::Admin, Role::Node] {
            assert_eq!(may(role).len(), 5, "{role}");
        }
    }

    #[test]
    fn a_wrong_role_is_told_what_it_needs_and_what_it_has() {
        let viewer = Subject::new("plant-7", Role::Viewer, "anna").expect("plain names");
        let status =
            admit("/holdfast.v1.Admin/ApplyConfig", Some(&viewer)).expect_err("a viewer changes nothing");
        assert_eq!(status.code(), tonic::Code::PermissionDenied);
        for word in ["HF-8103", "ApplyConfig", "admin", "viewer anna"] {
            assert!(status.message().contains(word), "{word} in {:?}", status.message());
        }
        assert!(admit("/holdfast.v1.Admin/GetStatus", Some(&viewer)).is_ok());
    }

    #[test]
    fn what_is_not_in_the_table_needs_an_admin() {
        let path = "/holdfast.v1.Admin/Unheard";
        let subject = |role| Subject::new("plant-7", role, "anna").expect("plain names");
        assert!(admit(path, Some(&subject(Role::Operator))).is_err());
        assert!(admit(path, Some(&subject(Role::Admin))).is_ok());
        assert!(admit(path, None).is_ok(), "plaintext knows no roles");
    }
}
