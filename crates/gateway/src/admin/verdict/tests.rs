use wire::times::nanos_to_proto;

use super::*;
use pb::cluster_status::Verdict;

fn member(name: &str, reach: pb::member::Reach) -> pb::Member {
    pb::Member {
        name: name.into(),
        voter: true,
        reach: reach.into(),
        lease: Some(nanos_to_proto(500_000_000)),
        ..pb::Member::default()
    }
}

fn well() -> Facts {
    use pb::member::Reach;
    Facts {
        at: Timestamp::from_millis(1_000_000),
        quorum: true,
        members: vec![
            member("a", Reach::Itself),
            member("b", Reach::Reachable),
            member("c", Reach::Reachable),
        ],
        ..Facts::default()
    }
}

fn device(id: &str, state: pb::device::State) -> pb::Device {
    pb::Device { id: id.into(), state: state.into(), ..pb::Device::default() }
}

fn kinds(facts: &Facts) -> Vec<Kind> {
    facts.alarms().iter().map(pb::Alarm::kind).collect()
}

#[test]
fn a_cluster_without_alarms_is_ok_and_may_lose_one_of_three() {
    let facts = well();
    assert_eq!(kinds(&facts), []);
    assert_eq!(facts.verdict(&facts.alarms()), Verdict::Ok);
    assert_eq!(facts.may_fail(), 1);
}

#[test]
fn with_one_of_three_gone_no_further_one_may_fail() {
    let mut facts = well();
    facts.members[2] = member("c", pb::member::Reach::Unreachable);
    facts.members[2].reason = "connection refused".into();
    let alarms = facts.alarms();
    assert_eq!(kinds(&facts), [Kind::MemberUnreachable, Kind::CannotLoseAnotherNode]);
    assert_eq!(alarms[0].text, "unreachable (connection refused)");
    assert_eq!(facts.verdict(&alarms), Verdict::Degraded);
    assert_eq!(facts.may_fail(), 0);
}

#[test]
fn without_a_majority_the_verdict_is_down() {
    let facts = Facts { quorum: false, ..well() };
    assert_eq!(facts.verdict(&facts.alarms()), Verdict::Down);
    assert_eq!(kinds(&facts), [Kind::NoQuorum]);
}

#[test]
fn two_voters_are_told_apart_from_three_with_one_missing() {
    let mut facts = well();
    facts.members.truncate(2);
    assert_eq!(kinds(&facts), [Kind::TwoVotersOnly]);
}

#[test]
fn each_silent_device_is_an_alarm_and_most_of_them_one_more() {
    use pb::device::State;
    let mut facts = well();
    facts.devices = vec![
        device("p1", State::Down),
        device("p2", State::Answering),
        device("p3", State::Answering),
        device("robot", State::Pushing),
    ];
    assert_eq!(kinds(&facts), [Kind::DeviceDown]);
    facts.devices[1] = device("p2", State::Down);
    assert_eq!(kinds(&facts), [Kind::DeviceDown, Kind::DeviceDown, Kind::LeaderReachesFewDevices]);
    facts.devices[0] = device("p1", State::Disabled);
    facts.devices[1] = device("p2", State::Disabled);
    assert_eq!(kinds(&facts), [], "what is out of service is nobody's alarm");
}

#[test]
fn a_destination_that_refuses_is_an_alarm_at_once_and_one_that_is_away_after_a_while() {
    use pb::destination::State;
    let destination = |state: State, seconds_ago: i64| pb::Destination {
        id: "historian".into(),
        state: state.into(),
        since: Some(timestamp_to_proto(well().at.plus_nanos(-seconds_ago * 1_000_000_000))),
        reason: "401 Unauthorized".into(),
        ..pb::Destination::default()
    };
    let with = |destination| Facts { destinations: vec![destination], ..well() };
    let refused = with(destination(State::Stalled, 0)).alarms();
    assert_eq!(refused[0].text, "refusing (401 Unauthorized)");
    assert_eq!(kinds(&with(destination(State::Retrying, 5))), []);
    assert_eq!(kinds(&with(destination(State::Retrying, 31))), [Kind::DestinationStalled]);
    assert_eq!(kinds(&with(destination(State::Paused, 9_999))), []);
    let quarantined = pb::Destination { quarantined: 3, ..destination(State::Current, 0) };
    assert_eq!(kinds(&with(quarantined)), [Kind::QuarantineNotEmpty]);
}

#[test]
fn the_disk_is_an_alarm_from_seventy_percent_of_the_nearer_limit() {
    let filled = |disk_bytes, max_bytes, free_bytes| {
        let buffer = pb::BufferStats { disk_bytes, max_bytes, ..pb::BufferStats::default() };
        let mut facts = Facts { buffer, ..well() };
        // Whoever is asked and whoever leads: a follower's disk counts like any other.
        facts.members[1].free_bytes = free_bytes;
        let name = facts.members[1].name.clone();
        (facts.alarms(), name)
    };
    assert!(filled(69, 100, None).0.is_empty());
    assert!(!filled(70, 100, None).0[0].severe);
    assert!(filled(90, 100, None).0[0].severe);
    let (alarms, name) = filled(80, 1_000, Some(20));
    assert_eq!((alarms[0].kind(), &alarms[0].subject), (Kind::DiskFilling, &name), "its disk has less room");
    assert!(filled(80, 0, None).0.is_empty(), "no limit is known");
}

#[test]
fn a_clock_is_an_alarm_only_when_it_is_surely_apart() {
    let apart = |offset: i64, error: i64| {
        let mut facts = well();
        facts.members[1].clock_offset = Some(nanos_to_proto(offset * 1_000_000));
        facts.members[1].clock_error = Some(nanos_to_proto(error * 1_000_000));
        facts.alarms()
    };
    assert!(apart(90, 0).is_empty());
    assert!(apart(150, 80).is_empty(), "the measurement is not that exact");
    assert_eq!(apart(-250, 10)[0].text, "its clock is 250 ms behind");
}

#[test]
fn what_a_node_notices_is_told() {
    let dates = |name: &str, from: i32, until: i32| {
        let at = |days: i32| well().at.plus_nanos(i64::from(days) * 86_400_000_000_000);
        tls::CertificateDates { name: name.to_owned(), from: at(from), until: at(until) }
    };
    let notices = Notices {
        // The last is that of a node that was a member once.
        certificates: vec![dates("a", -9, 12), dates("c", -9, -1), dates("b", 1, 200), dates("d", -9, -1)],
        clock_step: Some((well().at, 3_000_000_000)),
    };
    let unshared = |id: &str| ((AlarmKind::FilesNotOnAShare, id.to_owned()), standing(0));
    // The second destination is gone, and the third is one of another kind now: their alarms went with them.
    let standing = BTreeMap::from([unshared("files"), unshared("removed"), unshared("replaced")]);
    let destination = |id: &str, kind: &str| pb::Destination {
        id: id.into(),
        kind: kind.into(),
        ..pb::Destination::default()
    };
    let destinations = vec![destination("files", "csv"), destination("replaced", "http")];
    let mut facts = Facts { notices, standing, destinations, ..well() };
    facts.members[0].lease = Some(nanos_to_proto(3_000_000_000));
    assert_eq!(
        kinds(&facts),
        [
            Kind::CertificateExpires,
            Kind::CertificateExpires,
            Kind::Clock,
            Kind::CertificateExpires,
            Kind::FilesNotOnAShare,
            Kind::ProfilesDiffer
        ]
    );
    let alarms = facts.alarms();
    assert_eq!(
        (alarms[0].subject.as_str(), alarms[1].subject.as_str()),
        ("c", "b"),
        "the gravest come first"
    );
    assert!(alarms[0].text.starts_with("its certificate ended at"), "{}", alarms[0].text);
    assert!(alarms[1].text.ends_with("is a clock wrong?"), "{}", alarms[1].text);
    assert_eq!(alarms[3].text, "its certificate ends in 12 days");
}

fn standing(millis: i64) -> StandingAlarm {
    StandingAlarm {
        since: Timestamp::from_millis(millis),
        severity: model::command::Severity::Warning,
        text: "c does not see the files of a".into(),
    }
}

#[test]
fn a_clock_that_was_set_is_told_for_an_hour() {
    let at = |seconds: i64| {
        let notices = Notices { clock_step: Some((Timestamp(0), 1_000_000_000)), ..Notices::default() };
        kinds(&Facts { notices, at: Timestamp(seconds * 1_000_000_000), ..well() })
    };
    assert_eq!(at(3_599), [Kind::Clock]);
    assert_eq!(at(3_600), []);
}

#[test]
fn an_alarm_is_as_old_as_its_raising_whoever_leads_now() {
    use pb::device::State;
    let mut facts = well();
    facts.devices =
        vec![pb::Device { since: Some(timestamp_to_proto(well().at)), ..device("p1", State::Down) }];
    assert_eq!(facts.alarms()[0].since, Some(timestamp_to_proto(well().at)));
    facts.standing.insert((AlarmKind::DeviceDown, "p1".into()), standing(7));
    assert_eq!(facts.alarms()[0].since, Some(timestamp_to_proto(Timestamp::from_millis(7))));
}

#[test]
fn what_a_new_leader_does_not_know_yet_is_neither_raised_nor_over() {
    use pb::{destination, device as dev};
    let mut facts = well();
    let press = (AlarmKind::DeviceDown, "p1".to_owned());
    for (state, undecided) in [
        (dev::State::Connecting, true),
        (dev::State::Unspecified, true),
        (dev::State::Answering, false),
        (dev::State::Disabled, false),
    ] {
        facts.devices = vec![device("p1", state)];
        assert_eq!((kinds(&facts), facts.is_undecided(&press)), (vec![], undecided), "{state:?}");
    }
    facts.devices.clear();
    assert!(!facts.is_undecided(&press), "what is no longer in the plant is nobody's alarm");
    let historian = (AlarmKind::DestinationStalled, "historian".to_owned());
    for (state, undecided) in [(destination::State::Retrying, true), (destination::State::CatchingUp, false)]
    {
        let destination =
            pb::Destination { id: "historian".into(), state: state.into(), ..pb::Destination::default() };
        facts.destinations = vec![destination];
        assert_eq!(facts.is_undecided(&historian), undecided, "{state:?}");
    }
}

#[test]
fn a_complaint_about_files_ends_with_its_follower_whoever_leads() {
    let key = (AlarmKind::FilesNotOnAShare, "reports".to_owned());
    let reports = pb::Destination { id: "reports".into(), kind: "csv".into(), ..pb::Destination::default() };
    let mut facts = Facts { destinations: vec![reports], ..well() };
    facts.standing.insert(key.clone(), standing(7));
    let stands = |facts: &Facts| !kinds(facts).is_empty() || facts.is_undecided(&key);
    facts.members[0].leader = true;
    assert!(stands(&facts), "it may see them again, and says so itself");
    facts.members[2] = member("c", pb::member::Reach::Unreachable);
    assert_eq!(facts.alarms().iter().filter(|alarm| alarm.kind() == Kind::FilesNotOnAShare).count(), 1);
    facts.members[2] = pb::Member { leader: true, ..member("c", pb::member::Reach::Itself) };
    assert!(!stands(&facts), "it writes them itself now, and the others look");
    facts.members.pop();
    facts.members.push(member("d", pb::member::Reach::Reachable));
    assert!(!stands(&facts), "it is no member any more");
}

#[test]
fn alarms_have_the_same_numbers_in_the_log_and_in_the_api() {
    for kind in AlarmKind::ALL {
        let number = wire::convert::alarm_kind_number(kind);
        let shown = Kind::try_from(number).expect("as many kinds").as_str_name().to_lowercase();
        assert_eq!(shown.trim_start_matches("kind_").replace('_', "-"), kind.name());
    }
}
