//! A cluster with certificates, as `holdfast init` makes it: it founds itself, an admin changes it, a viewer only looks,
//! and whoever has no certificate gets nowhere. Judged by what the program says to people.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const NODES: usize = 3;
/// Peers, API, health.
const PORTS: u16 = 3;
/// No test waits longer for what must happen.
const SOON: Duration = Duration::from_secs(90);

const PLANT: &str = r#"version = 1
[[device]]
id = "press-1"
driver = "modbus-tcp"
address = "127.0.0.1:9"
[[device.group]]
id = "all"
period = "1s"
tag = [{ name = "pressure", address = "40101", type = "f32" }]
"#;

/// The program, built beside the tests.
fn program() -> PathBuf {
    let tests = std::env::current_exe().expect("a test runs from a file");
    let folder =
        tests.parent().and_then(|deps| deps.parent()).expect("tests lie in a folder below the programs");
    let program = folder.join(format!("holdfast{}", std::env::consts::EXE_SUFFIX));
    assert!(program.is_file(), "{} is missing: build the workspace's programs first", program.display());
    program
}

/// A folder for everything, and the processes that work in it.
struct Stage {
    folder: tempfile::TempDir,
    ports: Vec<u16>,
    nodes: Vec<Child>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            drop(node.kill());
            drop(node.wait());
        }
    }
}

impl Stage {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program in these surroundings and no others.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        for (key, _) in std::env::vars_os() {
            if key.to_str().is_some_and(|key| key.starts_with("HOLDFAST_")) {
                command.env_remove(key);
            }
        }
        command.env("XDG_CONFIG_HOME", self.folder.path()).current_dir(self.folder.path()).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().expect("the program starts")
    }

    fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn start_nodes(&mut self) {
        for index in 1..=NODES {
            let name = format!("node-{index}");
            let log = File::create(self.path(&format!("{name}.log"))).expect("a log");
            let config = format!("plant-7/{name}/node.toml");
            let node = self
                .command(&["node", "--config", &config])
                .env("HOLDFAST_DATA_DIR", self.path(&format!("{name}.data")))
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("a log"))
                .stderr(log)
                .spawn();
            self.nodes.push(node.expect("the program starts"));
        }
    }

    fn logs(&self) -> String {
        let log = |index| {
            let name = format!("node-{index}.log");
            format!("--- {name}\n{}\n", std::fs::read_to_string(self.path(&name)).unwrap_or_default())
        };
        (1..=NODES).map(log).collect()
    }

    /// Runs a command until it succeeds.
    fn eventually(&self, arguments: &[&str]) {
        let until = Instant::now() + SOON;
        loop {
            let output = self.run(arguments);
            if output.status.success() {
                return;
            }
            assert!(Instant::now() < until, "{arguments:?}: {}\n{}", said(&output), self.logs());
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn said(output: &Output) -> String {
    format!(
        "exit {:?}\n{}{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The first ports of as many nodes as there are, outside the range that systems take ports for connections from.
fn free_ports() -> Vec<u16> {
    let start = u16::try_from(std::process::id() % 300).expect("it is small") * 30;
    for attempt in 0..300 {
        let base = 20_000 + (start + attempt * 30) % 9_000;
        let firsts: Vec<u16> = (0..NODES as u16).map(|node| base + node * 10).collect();
        let all = firsts.iter().flat_map(|first| *first..*first + PORTS);
        if all.map(|port| TcpListener::bind(("127.0.0.1", port))).all(|bound| bound.is_ok()) {
            return firsts;
        }
    }
    panic!("no free ports between 20000 and 29000");
}

/// What a server answers to a plain HTTP/2 preface; nothing if it ends the connection.
fn answer_in_plaintext(port: u16) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("it listens");
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    answer
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
}

#[test]
fn a_cluster_made_by_init_obeys_its_admin_and_nobody_else() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut stage = Stage { folder, ports: free_ports(), nodes: Vec::new() };
    write(&stage.path("plant.toml"), PLANT);

    let nodes: Vec<String> =
        (1..).zip(&stage.ports).map(|(index, port)| format!("node-{index}=127.0.0.1:{port}")).collect();
    let mut init = vec!["init", "plant-7"];
    init.extend(nodes.iter().map(String::as_str));
    let next = stage.done(&init);
    assert!(next.contains("systemctl") && next.contains("plant-7/admin"), "{next}");
    assert!(!stage.run(&init).status.success(), "it overwrites nothing");
    stage.done(&[
        "pki",
        "issue",
        "--role",
        "viewer",
        "--name",
        "anna",
        "--authority",
        "plant-7/authority",
        "--into",
        "anna",
    ]);

    stage.start_nodes();
    let admin = ["--profile", "plant-7/admin/profile.toml"];
    let second = format!("127.0.0.1:{}", stage.ports[1] + 1);
    let viewer = ["--tls-dir", "anna", "--endpoints", second.as_str()];
    stage.eventually(&[&["leader", "show"][..], &admin].concat());
    stage.eventually(&[&["config", "apply", "plant.toml"][..], &admin].concat());

    // The audit trail has the name in the certificate, and no mark that it was only claimed.
    let history = stage.done(&[&["config", "history", "-o", "json"][..], &admin].concat());
    assert!(history.contains("\"admin\""), "{history}");
    assert!(!history.contains("claimed"), "{history}");

    let looked = stage.run(&[&["device", "list", "-o", "json"][..], &viewer].concat());
    assert!(
        String::from_utf8_lossy(&looked.stdout).contains("press-1") || said(&looked).contains("HF-3101"),
        "{}",
        said(&looked)
    );
    let refused = stage.run(&[&["config", "apply", "plant.toml"][..], &viewer].concat());
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    for word in ["HF-8103", "admin", "viewer anna"] {
        assert!(said(&refused).contains(word), "{word} in {}", said(&refused));
    }

    let api = format!("http://127.0.0.1:{}", stage.ports[0] + 1);
    let plain = stage.run(&["leader", "show", "--endpoints", &api]);
    assert_eq!(plain.status.code(), Some(4), "{}", said(&plain));
    assert!(said(&plain).contains("--tls-dir"), "{}", said(&plain));
    for port in [stage.ports[0], stage.ports[0] + 1] {
        let answer = answer_in_plaintext(port);
        // 0x15: an alert of TLS. Settings of HTTP/2 would begin with their length.
        assert!(answer.is_empty() || answer[0] == 0x15, "port {port} answers {answer:?}");
    }

    // Another authority of the same name: neither side trusts the other.
    stage.done(&["pki", "init", "plant-7", "--into", "other"]);
    stage.done(&[
        "pki",
        "issue",
        "--role",
        "admin",
        "--name",
        "eve",
        "--authority",
        "other",
        "--into",
        "eve",
    ]);
    let endpoint = format!("127.0.0.1:{}", stage.ports[0] + 1);
    let stranger = stage.run(&["leader", "show", "--tls-dir", "eve", "--endpoints", &endpoint]);
    assert_eq!(stranger.status.code(), Some(4), "{}", said(&stranger));
    assert!(said(&stranger).contains("authority"), "{}", said(&stranger));
}
