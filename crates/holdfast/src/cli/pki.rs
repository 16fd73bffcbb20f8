//! `holdfast pki`: the authority of a cluster, and what it issues.
//!
//! - Nothing is overwritten but a certificate that is renewed, and that in one step.
//! - Keys are written for their owner alone. A renewal needs no key but the authority's.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use model::Clock as _;
use runtime::SystemClock;
use serde::Serialize;
use tls::{Authority, Certificate, Issued, Role, Validity};

use super::access::CA;
use super::error::{CliError, Done};
use super::output::Output;

/// The authority's files in its folder.
const CA_KEY: &str = "ca.key";
/// Days that an authority is valid: longer than the plant's boxes live.
pub(super) const AUTHORITY_DAYS: u32 = 20 * 365;
/// Days that a certificate is valid, if nothing else is said.
pub(super) const DAYS: u32 = 825;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum PkiCommand {
    /// Make the authority of a cluster.
    #[command(
        long_about = "Make the authority of a cluster: a certificate (ca.pem), which every box and client gets, and its \
        key (ca.key), which stays where you keep keys. `holdfast init` does this for a new cluster.\n\n\
        Example:\n  holdfast pki init plant-7 --into authority"
    )]
    Init {
        /// The cluster's name, as in the node files.
        cluster: String,
        /// Where to put the two files.
        #[arg(long, value_name = "DIR", default_value = "authority")]
        into: PathBuf,
        /// How long it is valid.
        #[arg(long, default_value_t = AUTHORITY_DAYS, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Issue a certificate with a new key.
    #[command(
        long_about = "Issue a certificate with a new key. The role says what its holder may do: node (a member of the \
        cluster), admin (everything), operator (disable devices, pause destinations, hand over), viewer (look), pusher \
        (push samples and nothing else).\n\n\
        Examples:\n  holdfast pki issue --role viewer --name anna --into anna\n  \
        holdfast pki issue --role node --name gateway-d --host 10.0.9.14 --into gateway-d"
    )]
    Issue {
        /// What the holder may do: node, admin, operator, viewer or pusher.
        #[arg(long, value_parser = role)]
        role: Role,
        /// Who holds it: the node's name, or that of a person or program.
        #[arg(long)]
        name: String,
        /// A host name or address that a node is reached under; may be repeated.
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        /// How long it is valid.
        #[arg(long, default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
        /// Folder of the authority.
        #[arg(long, value_name = "DIR", default_value = "authority")]
        authority: PathBuf,
        /// Where to put ca.pem, certificate and key.
        #[arg(long, value_name = "DIR", default_value = ".")]
        into: PathBuf,
    },
    /// Renew a certificate; its key stays as it is.
    #[command(
        long_about = "Renew a certificate for the same key, holder and hosts. Only the certificate changes: copy it over \
        the old one on its box; a running node takes it up by itself.\n\n\
        Example:\n  holdfast pki renew plant-7/gateway-a/gateway-a.pem --authority plant-7/authority"
    )]
    Renew {
        /// The certificate; it is replaced.
        certificate: PathBuf,
        /// Folder of the authority.
        #[arg(long, value_name = "DIR", default_value = "authority")]
        authority: PathBuf,
        /// How long it is valid.
        #[arg(long, default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Say whom a certificate names, and until when it is valid.
    Show {
        /// The certificate.
        certificate: PathBuf,
    },
}

pub(super) fn run(output: Output, command: &PkiCommand) -> Result<Done, CliError> {
    match command {
        PkiCommand::Init { cluster, into, days } => {
            let authority = make_authority(cluster, *days)?;
            write_authority(into, &authority)?;
            let text = format!(
                "The authority of {cluster} lies in {}.\nGive {CA} to every box and client; keep {CA_KEY} where nobody \
                 else can read it, and a copy elsewhere.",
                into.display()
            );
            output.show(&Made { files: vec![into.join(CA), into.join(CA_KEY)] }, || text)?;
        }
        PkiCommand::Issue { role, name, hosts, days, authority, into } => {
            let authority = read_authority(authority)?;
            let issued = authority.issue(*role, name, hosts, validity(*days))?;
            let (stem, ca) = (file_stem(*role, name), into.join(CA));
            let files = write_issued(into, &stem, &issued)?;
            if !ca.exists() {
                write_new(&ca, authority.certificate(), Secrecy::Open)?;
            }
            let text = format!(
                "{} of {} may act as {role}: certificate {}, key {}.",
                name,
                authority.cluster(),
                files[0].display(),
                files[1].display()
            );
            output.show(&Made { files }, || text)?;
        }
        PkiCommand::Renew { certificate, authority, days } => {
            let authority = read_authority(authority)?;
            let renewed = authority.renew(&read(certificate)?, validity(*days))?;
            replace(certificate, &renewed)?;
            output.show(&Made { files: vec![certificate.clone()] }, || {
                format!(
                    "{} is renewed; its key stays as it is. Copy it over the old one on its box: a running node takes it \
                     up within a minute, or at once with `systemctl reload holdfast`.",
                    certificate.display()
                )
            })?;
        }
        PkiCommand::Show { certificate } => {
            let facts = Certificate::of_pem(&read(certificate)?)
                .map_err(|reason| CliError::File { path: certificate.clone(), reason })?;
            output.show(&Shown::of(&facts), || describe(&facts))?;
            return Ok(if facts.is_valid_at(SystemClock.now()) { Done::Well } else { Done::Badly });
        }
    }
    Ok(Done::Well)
}

/// What was written.
#[derive(Debug, Serialize)]
struct Made {
    files: Vec<PathBuf>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    subject: Option<String>,
    authority_of: Option<String>,
    hosts: Vec<String>,
    issuer: String,
    from: String,
    until: String,
    fingerprint: String,
}

impl Shown {
    fn of(facts: &Certificate) -> Self {
        Self {
            subject: facts.subject.as_ref().map(tls::Subject::uri),
            authority_of: facts.authority_of.clone(),
            hosts: facts.hosts.clone(),
            issuer: facts.issuer.clone(),
            from: facts.from.to_string(),
            until: facts.until.to_string(),
            fingerprint: facts.fingerprint.clone(),
        }
    }
}

fn describe(facts: &Certificate) -> String {
    let holder = match (&facts.subject, &facts.authority_of) {
        (Some(subject), _) => subject.to_string(),
        (None, Some(cluster)) => format!("the authority of {cluster}"),
        (None, None) => "nobody of a cluster".to_owned(),
    };
    let now = SystemClock.now();
    let standing = match () {
        () if now < facts.from => "not valid yet",
        () if now > facts.until => "expired",
        () => "valid",
    };
    let mut text = format!(
        "holder       {holder}\nvalid        {} to {} ({standing})\nsigned by    {}\nfingerprint  {}",
        facts.from.to_local(),
        facts.until.to_local(),
        facts.issuer,
        facts.fingerprint
    );
    if !facts.hosts.is_empty() {
        text.push_str(&format!("\nhosts        {}", facts.hosts.join(", ")));
    }
    text
}

fn role(text: &str) -> Result<Role, String> {
    text.parse().map_err(|error: tls::SubjectError| error.to_string())
}

/// How files of a role are called: those of a node after it, those of a client all alike, as `--tls-dir` expects them.
fn file_stem(role: Role, name: &str) -> String {
    match role {
        Role::Node => name.to_owned(),
        _ => "client".to_owned(),
    }
}

pub(super) fn validity(days: u32) -> Validity {
    Validity::days(SystemClock.now(), days)
}

pub(super) fn make_authority(cluster: &str, days: u32) -> Result<Authority, CliError> {
    Ok(Authority::create(cluster, validity(days))?)
}

pub(super) fn write_authority(folder: &Path, authority: &Authority) -> Result<(), CliError> {
    write_new(&folder.join(CA_KEY), &authority.key(), Secrecy::Owner)?;
    write_new(&folder.join(CA), authority.certificate(), Secrecy::Open)
}

/// Writes certificate and key; gives their paths.
pub(super) fn write_issued(folder: &Path, stem: &str, issued: &Issued) -> Result<Vec<PathBuf>, CliError> {
    let (cert, key) = (folder.join(format!("{stem}.pem")), folder.join(format!("{stem}.key")));
    // Both or none: a key beside another's certificate would be found out much later.
    if let Some(present) = [&cert, &key].into_iter().find(|path| path.exists()) {
        return Err(already(present));
    }
    write_new(&key, &issued.key, Secrecy::Owner)?;
    write_new(&cert, &issued.certificate, Secrecy::Open)?;
    Ok(vec![cert, key])
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrecy {
    /// Everybody.
    Open,
    /// Its owner.
    Owner,
}

/// Writes a file that must not exist yet, with the folder around it.
pub(super) fn write_new(path: &Path, text: &str, secrecy: Secrecy) -> Result<(), CliError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => already(path),
        _ => CliError::File { path: path.to_owned(), reason: error.to_string() },
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let mode = match secrecy {
        Secrecy::Open => 0o644,
        Secrecy::Owner => 0o600,
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)
}

fn already(path: &Path) -> CliError {
    let reason =
        "it exists already, and nothing is overwritten; move it away or choose another folder".to_owned();
    CliError::File { path: path.to_owned(), reason }
}

/// Replaces a file in one step: whoever reads it meanwhile reads the old or the new one.
fn replace(path: &Path, text: &str) -> Result<(), CliError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    let failed = |error: io::Error| CliError::File { path: path.to_owned(), reason: error.to_string() };
    if let Err(error) = fs::remove_file(&aside)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(failed(error));
    }
    write_new(&aside, text, Secrecy::Open)?;
    fs::rename(&aside, path).map_err(failed)
}

fn read(path: &Path) -> Result<String, CliError> {
    fs::read_to_string(path)
        .map_err(|error| CliError::File { path: path.to_owned(), reason: error.to_string() })
}

fn read_authority(folder: &Path) -> Result<Authority, CliError> {
    Ok(Authority::read(&read(&folder.join(CA))?, &read(&folder.join(CA_KEY))?)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::output::Format;
    use super::*;

    fn pki(command: &PkiCommand) -> Result<Done, CliError> {
        run(Output::new(Format::Json), command)
    }

    fn issue(folder: &Path, role: Role, into: &str) -> Result<Done, CliError> {
        pki(&PkiCommand::Issue {
            role,
            name: "anna".to_owned(),
            hosts: Vec::new(),
            days: 30,
            authority: folder.join("authority"),
            into: folder.join(into),
        })
    }

    #[test]
    fn an_authority_issues_and_renews_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let init =
            PkiCommand::Init { cluster: "plant-7".into(), into: folder.path().join("authority"), days: 400 };
        pki(&init).expect("nothing there yet");
        assert!(matches!(pki(&init), Err(CliError::File { .. })), "the authority is not overwritten");
        issue(folder.path(), Role::Viewer, "anna").expect("nothing there yet");
        assert!(matches!(issue(folder.path(), Role::Admin, "anna"), Err(CliError::File { .. })));

        let files = |name: &str| folder.path().join("anna").join(name);
        for (key, mode) in [(files("client.key"), 0o600), (folder.path().join("authority/ca.key"), 0o600)] {
            let permissions = fs::metadata(&key).expect("written").permissions();
            assert_eq!(permissions.mode() & 0o777, mode, "{}", key.display());
        }
        let all = tls::Files { ca: files("ca.pem"), cert: files("client.pem"), key: files("client.key") };
        let first = tls::Credentials::load(&all).expect("they fit together");
        assert_eq!(first.subject().uri(), "holdfast://plant-7/viewer/anna");

        pki(&PkiCommand::Renew {
            certificate: files("client.pem"),
            authority: folder.path().join("authority"),
            days: 300,
        })
        .expect("it is ours");
        let renewed = tls::Credentials::load(&all).expect("the key still fits");
        assert!(renewed.certificate().until > first.certificate().until);
        assert!(!files("client.pem.new").exists());
    }

    #[test]
    fn a_certificate_is_described_in_words() {
        let authority = make_authority("plant-7", 400).expect("an authority");
        let hosts = ["10.0.9.11".to_owned()];
        let issued = authority.issue(Role::Node, "gateway-a", &hosts, validity(30)).expect("issued");
        let text = describe(&Certificate::of_pem(&issued.certificate).expect("ours"));
        for word in ["node gateway-a of plant-7", "(valid)", "10.0.9.11"] {
            assert!(text.contains(word), "{word} in {text}");
        }
        let text = describe(&Certificate::of_pem(authority.certificate()).expect("ours"));
        assert!(text.contains("the authority of plant-7"), "{text}");
    }
}
