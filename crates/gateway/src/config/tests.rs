use std::time::Duration;

use super::*;

const FILE: &str = r#"
    name = "node-1"
    data-dir = "/var/lib/holdfast"
    insecure = true
    [cluster]
    name = "plant-7"
    members = ["node-1=127.0.0.1:7610", "node-2=127.0.0.1:7620"]
    [listen]
    peers = "127.0.0.1:7610"
    admin = "127.0.0.1:7611"
"#;

fn nothing(_: &str) -> Option<String> {
    None
}

/// Reads `text` as a node file in `folder`.
fn parse_in(folder: &tempfile::TempDir, text: &str) -> Result<NodeConfig, Vec<String>> {
    NodeConfig::parse_at(text, &folder.path().join("node.toml"), nothing)
}

#[test]
fn a_plain_file_is_read() {
    let config = NodeConfig::parse(FILE, nothing).expect("it is valid");
    assert_eq!(config.members[1], ("node-2".to_owned(), "127.0.0.1:7620".to_owned()));
    assert_eq!(config.times, LeaseTimes::LAN);
}

#[test]
fn the_environment_replaces_values() {
    let config = NodeConfig::parse(FILE, |key| (key == "HOLDFAST_DATA_DIR").then(|| "/tmp/x".to_owned()));
    assert_eq!(config.expect("it is valid").data_dir, Path::new("/tmp/x"));
}

#[test]
fn every_problem_is_reported_at_once_and_with_its_place() {
    let text = r#"nmae = "node-1"
data-dir = 7
profile = "lam"
insecure = "yes"
colour = "red"
[cluster]
name = "plant-7"
members = ["node-1=127.0.0.1:7610", "node-2", 3]
[listen]
peers = "127.0.0.1"
admn = "127.0.0.1:7611"
[limits]
memory = "1MiB"
disk = 40
[hooks]
on-lead = "start"
[listne]
"#;
    let expected = [
        ("1:1: ", "expected the key `name` (what people call this node), found none"),
        ("1:1: ", "unknown key \"nmae\" (did you mean `name`?)"),
        ("2:12: ", "expected a text in quotes, found the number 7"),
        ("3:11: ", "expected \"lan\", \"lan-fast\" or \"wan\", found \"lam\" (did you mean \"lan\"?)"),
        ("4:12: ", "expected true or false, found the text \"yes\""),
        ("5:1: ", "unknown key \"colour\" (expected one of name, role, "),
        ("8:37: ", "expected NAME=HOST:PORT, found \"node-2\""),
        ("8:47: ", "expected a text in quotes, found the number 3"),
        ("9:1: ", "expected the key `admin` ("),
        ("10:9: ", "expected IP:PORT, found \"127.0.0.1\""),
        ("11:1: ", "unknown key \"admn\" (did you mean `admin`?)"),
        ("13:10: ", "expected at least 256MiB (512MiB is the default), found 1MiB"),
        ("14:8: ", "expected a text in quotes, found the number 40"),
        ("16:11: ", "expected a list of texts such as [\"a\", \"b\"], found the text \"start\""),
        ("17:", "unknown key \"listne\" (did you mean `listen`?)"),
    ];
    let problems = NodeConfig::parse(text, nothing).expect_err("many problems");
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, (place, what)) in problems.iter().zip(expected) {
        let is_there = problem.starts_with(&format!("node.toml:{place}")) && problem.contains(what);
        assert!(is_there, "expected {place}{what}, found {problem}");
    }
}

#[test]
fn what_holds_between_keys_is_checked_with_the_rest() {
    let text = FILE
        .replace("node-1=127.0.0.1:7610", "node-3=127.0.0.1:7630")
        .replace("\"127.0.0.1:7611\"", "\"10.0.0.1:7611\"");
    let problems = NodeConfig::parse(&text, nothing).expect_err("two problems");
    let expected = [
        "node.toml:7:15: HF-1104: expected this node, \"node-1\", among the members",
        "node.toml:10:13: HF-1201: plaintext is allowed on loopback addresses only",
    ];
    assert_eq!(problems, expected);
}

#[test]
fn what_is_no_toml_is_said_with_its_place() {
    let problems = NodeConfig::parse("name = \"a\"\n[cluster\n", nothing).expect_err("no TOML");
    assert!(problems.len() == 1 && problems[0].starts_with("node.toml:2:9: expected TOML: "), "{problems:?}");
}

#[test]
fn people_see_the_file_and_a_line_for_each_problem() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("node.toml");
    std::fs::write(&path, FILE.replace("7611", "here").replace("7620", "there")).expect("written");
    let error = NodeConfig::read(&path).expect_err("two problems").to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines[0], "HF-1102: the node file is wrong, nothing was started:");
    let places = [7, 10].map(|line| format!("  {}:{line}:", path.display()));
    assert!(
        lines.len() == 3 && lines[1].starts_with(&places[0]) && lines[2].starts_with(&places[1]),
        "{error}"
    );
}

#[test]
fn a_peer_may_be_dialled_elsewhere() {
    let text = format!("{FILE}\n[dial]\n\"127.0.0.1:7620\" = \"127.0.0.1:40001\"\n");
    let config = NodeConfig::parse(&text, nothing).expect("it is valid");
    assert_eq!(config.dial["127.0.0.1:7620"], "127.0.0.1:40001");
    let problems = NodeConfig::parse(&text.replace(":40001", ""), nothing).expect_err("no port");
    let said = ": expected \"HOST:PORT\" = \"HOST:PORT\", found \"127.0.0.1:7620\" = \"127.0.0.1\"";
    assert!(problems.len() == 1 && problems[0].ends_with(said), "{problems:?}");
}

#[test]
fn a_node_founds_or_joins_and_not_both() {
    let members = "members = [\"node-1=127.0.0.1:7610\", \"node-2=127.0.0.1:7620\"]";
    let joins = FILE.replace(members, "join = [\"127.0.0.1:7620\"]");
    let config = NodeConfig::parse(&joins, nothing).expect("it is valid");
    assert_eq!((config.members.len(), config.join.as_slice()), (0, &["127.0.0.1:7620".to_owned()][..]));
    assert_eq!(config.address, "127.0.0.1:7610", "where it listens, if nothing else is said");
    let behind = joins.replace("[listen]", "[listen]\n        advertise = \"plant-7:7610\"");
    assert_eq!(NodeConfig::parse(&behind, nothing).expect("it is valid").address, "plant-7:7610");
    let both = FILE.replace(members, &format!("{members}\n        join = [\"127.0.0.1:7620\"]"));
    for (wrong, what) in [(both, "not both"), (joins.replace(":7620", ""), "HOST:PORT")] {
        let problems = NodeConfig::parse(&wrong, nothing).expect_err(what);
        assert!(problems.len() == 1 && problems[0].contains(what), "{problems:?}");
    }
}

#[test]
fn a_limit_on_the_disk_is_a_size() {
    let limited = |disk| format!("{FILE}\n[limits]\ndisk = \"{disk}\"\n");
    let config = NodeConfig::parse(&limited("40GiB"), nothing).expect("it is valid");
    assert_eq!(config.disk_limit, Some(40 << 30));
    for wrong in ["40", "1MiB"] {
        let problems = NodeConfig::parse(&limited(wrong), nothing).expect_err("no room to work in");
        assert!(problems.len() == 1 && problems[0].starts_with("node.toml:13:8: expected "), "{problems:?}");
    }
}

#[test]
fn a_limit_on_the_memory_is_a_size_with_a_least() {
    let limited = |memory| format!("{FILE}\n[limits]\nmemory = \"{memory}\"\n");
    let limit = |text: &str| NodeConfig::parse(text, nothing).map(|config| config.memory.limit());
    assert_eq!(limit(FILE), Ok(512 << 20));
    assert_eq!(limit(&limited("1GiB")), Ok(1 << 30));
    let from_outside = |key: &str| (key == "HOLDFAST_LIMITS_MEMORY").then(|| "300MiB".to_owned());
    let config = NodeConfig::parse(&limited("1GiB"), from_outside).expect("it is valid");
    assert_eq!(config.memory.limit(), 300 << 20);
    for wrong in ["512", "255MiB"] {
        let problems = limit(&limited(wrong)).expect_err("no memory to work in");
        assert!(problems.len() == 1 && problems[0].starts_with("node.toml:13:10: expected "), "{problems:?}");
    }
    assert!(limit(&limited("64MiB")).expect_err("too little")[0].contains("at least 256MiB"));
}

#[test]
fn the_api_is_reached_where_it_listens_or_where_it_is_advertised() {
    let address = |text: &str| NodeConfig::parse(text, nothing).expect("it is valid").api_address();
    assert_eq!(address(FILE), "127.0.0.1:7611");
    let named = FILE.replace("admin =", "advertise-admin = \"gateway-a:8611\"\n admin =");
    assert_eq!(address(&named), "gateway-a:8611");
    let problems = NodeConfig::parse(&named.replace(":8611", ""), nothing).expect_err("no port");
    assert!(problems[0].contains("expected HOST:PORT, found \"gateway-a\""), "{problems:?}");
    let mut everywhere = NodeConfig::parse(FILE, nothing).expect("it is valid");
    everywhere.listen.admin = ([0, 0, 0, 0], 7611).into();
    everywhere.address = "gateway-a:7610".to_owned();
    assert_eq!(everywhere.api_address(), "gateway-a:7611");
}

#[test]
fn hooks_are_programs_with_arguments_and_a_time() {
    let text = format!("{FILE}\n[hooks]\non-lead = [\"systemctl\", \"start\", \"line\"]\ntimeout = \"2s\"\n");
    let hooks = NodeConfig::parse(&text, nothing).expect("it is valid").hooks;
    assert_eq!((hooks.on_lead.len(), hooks.on_yield.len(), hooks.timeout), (3, 0, Duration::from_secs(2)));
    assert_eq!(NodeConfig::parse(FILE, nothing).expect("it is valid").hooks, Hooks::default());
    let text = format!("{FILE}\n[hooks]\non-lead = []\non-yield = [\"\"]\ntimeout = \"5m\"\n");
    let problems = NodeConfig::parse(&text, nothing).expect_err("three problems");
    assert_eq!(problems.len(), 3, "{problems:?}");
}

#[test]
fn the_dead_man_timer_is_on_and_nftables_is_off_unless_the_file_says_otherwise() {
    let fence =
        |table: &str| NodeConfig::parse(&format!("{FILE}\n{table}"), nothing).map(|config| config.fence);
    let usual = Fence { dead_man: true, nftables: false };
    assert_eq!((fence(""), fence("[fence]\n")), (Ok(usual), Ok(usual)));
    assert_eq!(fence("[fence]\nnftables = true\n"), Ok(Fence { nftables: true, ..usual }));
    assert_eq!(fence("[fence]\ndead-man = false\n"), Ok(Fence::LEASE));
    let problems = fence("[fence]\ndead-man = \"off\"\n").expect_err("no flag");
    assert!(problems.len() == 1 && problems[0].contains("expected true or false"), "{problems:?}");
}

#[test]
fn commands_and_variables_of_the_box_may_hold_what_the_plant_document_reserves() {
    let text =
        format!("{FILE}\n[hooks]\non-lead = [\"sh\", \"-c\", \"echo ${{HOME}}\"]\n[vars]\na = \"${{b}}\"\n");
    let config = NodeConfig::parse(&text, nothing).expect("it is valid");
    assert_eq!((config.hooks.on_lead[2].as_str(), config.vars["a"].as_str()), ("echo ${HOME}", "${b}"));
}

/// A folder with certificates for `subject`, and the node file that names them.
fn with_tls(cluster: &str, role: tls::Role, name: &str) -> (tempfile::TempDir, String) {
    let now = model::Timestamp(1_893_456_000_000_000_000);
    let ca = tls::Authority::create(cluster, tls::Validity::days(now, 365)).expect("an authority");
    let issued = ca.issue(role, name, &[], tls::Validity::days(now, 365)).expect("issued");
    let folder = tempfile::tempdir().expect("a folder");
    for (file, text) in [("ca.pem", ca.certificate()), ("n.pem", &issued.certificate), ("n.key", &issued.key)]
    {
        std::fs::write(folder.path().join(file), text).expect("written");
    }
    let tls = "[tls]\nca = \"ca.pem\"\ncert = \"n.pem\"\nkey = \"n.key\"\n";
    (
        folder,
        format!("{}\n{tls}", FILE.replace("insecure = true", "").replace("127.0.0.1:7611", "0.0.0.0:7611")),
    )
}

#[test]
fn with_certificates_any_address_may_be_listened_on() {
    let (folder, text) = with_tls("plant-7", tls::Role::Node, "node-1");
    let config = parse_in(&folder, &text).expect("it is valid");
    assert_eq!(config.tls.expect("they were read").subject().uri(), "holdfast://plant-7/node/node-1");
}

#[test]
fn certificates_and_plaintext_exclude_each_other_and_one_of_them_is_needed() {
    let (folder, text) = with_tls("plant-7", tls::Role::Node, "node-1");
    for text in [
        format!("insecure = true\n{}", text.replace("0.0.0.0", "127.0.0.1")),
        FILE.replace("insecure = true", ""),
    ] {
        let problems = parse_in(&folder, &text).expect_err("neither or both");
        assert!(problems.len() == 1 && problems[0].contains("HF-1201"), "{problems:?}");
    }
}

#[test]
fn everything_that_is_wrong_with_certificates_is_said_with_the_rest() {
    for (cluster, role, name, code) in [
        ("plant-8", tls::Role::Node, "node-1", "HF-1206"),
        ("plant-7", tls::Role::Node, "node-2", "HF-1207"),
        ("plant-7", tls::Role::Admin, "node-1", "HF-1207"),
    ] {
        let (folder, text) = with_tls(cluster, role, name);
        let text = text.replace("node-2=127.0.0.1:7620", "node-2");
        let problems = parse_in(&folder, &text).expect_err("two problems");
        assert!(problems.len() == 2 && problems[1].contains(code), "{problems:?}");
    }
    let (folder, text) = with_tls("plant-7", tls::Role::Node, "node-1");
    for file in ["ca.pem", "n.key"] {
        std::fs::write(folder.path().join(file), "").expect("written");
    }
    std::fs::remove_file(folder.path().join("n.pem")).expect("removed");
    let problems = parse_in(&folder, &text).expect_err("three problems");
    assert_eq!(problems.len(), 3, "{problems:?}");
}
