//! The conformance suite over the etcd store, against real etcd, and what only etcd can suffer: kill -9,
//! a standstill, a used-up quota, a dead endpoint, a rival.

#![expect(clippy::unwrap_used, reason = "a test that can't set its stage should end there")]

mod etcd_support;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use etcd_support::{Server, Version};
use hive_control_plane::clock::monotonic;
use hive_control_plane::store::conformance::{self, Leader, delete, put};
use hive_control_plane::store::etcd::{BadOptions, Etcd, Options, User};
use hive_control_plane::store::{CommitError, Loaded, Op, OpenError, RefusedReason, Store, Transaction};
use hive_etcd::etcdserverpb as pb;
use hive_etcd::etcdserverpb::auth_client::AuthClient;
use hive_etcd::etcdserverpb::kv_client::KvClient;
use hive_proto::tls::ClientTls;
use rustix::process::Signal;
use tokio::sync::watch;

const BOTH: [Version; 2] = [Version::Old, Version::New];

async fn suite(test: &str, version: Version) {
    let Some(server) = Server::start(test, version, &[]) else { return };
    macro_rules! each {
        ($($check:ident),* $(,)?) => {$(
            eprintln!(stringify!($check));
            conformance::$check(&server.store(stringify!($check))).await;
        )*};
    }
    each! {
        starts_empty,
        keeps_what_was_committed,
        keeps_blobs_apart,
        fences_old_leaders,
        commits_in_order,
        keeps_time,
        refuses_what_is_too_large,
    }
    conformance::survives_reopening(|| server.store("survives_reopening")).await;
}

#[tokio::test]
async fn conforms_on_the_oldest_supported_etcd() {
    suite("conforms_on_the_oldest_supported_etcd", Version::Old).await;
}

#[tokio::test]
async fn conforms_on_a_current_etcd() {
    suite("conforms_on_a_current_etcd", Version::New).await;
}

#[tokio::test]
async fn a_second_process_fences_the_first_and_clusters_do_not_meet() {
    let Some(server) = Server::start("a_second_process_fences_the_first", Version::New, &[]) else { return };
    let (first, second, other) = (server.store("c"), server.store("c"), server.store("d"));
    let (mut old, _) = Leader::acquire(&first).await;
    let (mut beside, _) = Leader::acquire(&other).await;
    old.write(vec![put("s/a", "old")]).await;
    let (mut new, loaded) = Leader::acquire(&second).await;
    assert_eq!(loaded.seq, 1);
    // Whether or not the new one has written, and whatever the old one knows.
    for _ in 0..2 {
        let refused = old.commit(vec![put("s/a", "late")]).await;
        assert!(matches!(refused, Err(CommitError::Fenced { current }) if current == new.epoch), "{refused:?}");
        new.write(vec![put("s/b", "new")]).await;
    }
    beside.write(vec![put("s/z", "other")]).await;
    let keys: Vec<_> = second.acquire().await.unwrap().records.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["s/a", "s/b"]);
}

#[tokio::test]
async fn loads_page_by_page_at_one_revision() {
    let Some(server) = Server::start("loads_page_by_page_at_one_revision", Version::Old, &[]) else { return };
    let store = server.store("c");
    let (mut leader, _) = Leader::acquire(&store).await;
    let mut all = Vec::new();
    for page in 0..13 {
        let ops: Vec<_> = (0..120).map(|n| put(format!("s/{:05}", page * 120 + n), "v")).collect();
        all.extend(ops.iter().map(|op| op.key().clone()));
        leader.write(ops).await;
    }
    let loaded = store.acquire().await.unwrap();
    assert!(loaded.records.iter().map(|(key, _)| key).eq(all.iter()), "{} of {}", loaded.records.len(), all.len());
}

#[tokio::test]
async fn a_dead_endpoint_costs_no_call() {
    let Some(server) = Server::start("a_dead_endpoint_costs_no_call", Version::New, &[]) else { return };
    let mut options = server.options("c");
    // Discard: nobody listens there.
    options.endpoints = vec!["http://127.0.0.1:9".into(), server.url(), "http://127.0.0.1:9".into()];
    let store = Etcd::new(options).unwrap();
    let (mut leader, _) = Leader::acquire(&store).await;
    for n in 0..300 {
        leader.write(vec![put("s/n", n.to_string())]).await;
    }
}

#[tokio::test]
async fn a_cluster_of_a_newer_format_is_left_alone() {
    let Some(server) = Server::start("a_cluster_of_a_newer_format_is_left_alone", Version::New, &[]) else { return };
    server.store("c").acquire().await.unwrap();
    let format = hive_proto::store_v1::FormatRecord { format: 9, cluster_generation: 1, cluster_id: Bytes::new() };
    raw_put(&server, "/hive/c/format", prost::Message::encode_to_vec(&format)).await.unwrap();
    let refused = server.store("c").acquire().await.unwrap_err();
    assert!(matches!(&refused, OpenError::Keys { what, .. } if what.contains("format 9")), "{refused}");
    assert!(!refused.is_retryable());
}

async fn raw_put(server: &Server, key: &str, value: Vec<u8>) -> Result<(), tonic::Status> {
    let put = pb::PutRequest { key: key.to_owned().into(), value: value.into(), lease: 0 };
    let op = pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
    let txn = pb::TxnRequest { success: vec![op], ..Default::default() };
    KvClient::new(server.channel()).txn(txn).await.map(drop)
}

/// What must be there: kept by whoever commits, compared with what is loaded.
#[derive(Default)]
struct Ledger {
    records: BTreeMap<Bytes, Bytes>,
    unknown: u32,
    landed_unseen: u32,
}

impl Ledger {
    fn count(&mut self, tx: &Transaction) {
        for op in &tx.ops {
            match op {
                Op::Put { key, value } => _ = self.records.insert(key.clone(), value.clone()),
                Op::Delete { key } => _ = self.records.remove(key),
            }
        }
    }

    /// Settles what was unknown by what is loaded, and compares.
    fn settle(&mut self, tx: &Transaction, loaded: &Loaded) {
        self.unknown += 1;
        if (loaded.seq, loaded.nonce) == (tx.seq, tx.nonce) {
            self.landed_unseen += 1;
            self.count(tx);
        } else {
            assert_eq!(loaded.seq, tx.prev_seq);
        }
        self.compare(loaded);
    }

    fn compare(&self, loaded: &Loaded) {
        assert!(loaded.records.iter().map(|(k, v)| (k, v)).eq(self.records.iter()), "other records than were told");
    }
}

fn change(n: u64) -> Vec<Op> {
    vec![
        put(format!("s/{:02}", n % 50), n.to_string()),
        put(format!("s/n{n:06}"), "v"),
        delete(format!("s/n{:06}", n / 2)),
    ]
}

/// Commits that have ended, so that a fault falls in between them however fast the machine is.
#[derive(Default)]
struct Done(watch::Sender<u64>);

impl Done {
    async fn reach(&self, commits: u64) {
        let mut done = self.0.subscribe();
        let reached = done.wait_for(|done| *done >= commits);
        tokio::time::timeout(Duration::from_secs(60), reached).await.expect("commits in time").expect("kept");
    }
}

/// Commits, and counts in `done`; a commit of unknown outcome, at most `most` after it began, is settled by
/// taking the lead.
async fn commit_through(store: &Etcd, ledger: &mut Ledger, done: &Done, commits: u64, most: Duration) {
    let (mut leader, loaded) = Leader::acquire(store).await;
    ledger.compare(&loaded);
    for _ in 0..commits {
        let tx = leader.next(change(leader.seq + 1));
        let begun = monotonic();
        match store.commit(tx.clone()).await {
            Ok(revision) => {
                assert_eq!(revision.seq, tx.seq);
                ledger.count(&tx);
                leader.seq = tx.seq;
            }
            Err(CommitError::Unknown(_)) => {
                assert!(monotonic() - begun < most, "unknown only after {:?}", monotonic() - begun);
                assert!(!store.health().open);
                // Nothing is written until it is settled.
                let next = store.commit(tx.clone()).await;
                assert!(matches!(next, Err(CommitError::Unknown(_))), "{next:?}");
                let loaded = taken_over(store).await;
                ledger.settle(&tx, &loaded);
                (leader.epoch, leader.seq) = (loaded.epoch, loaded.seq);
            }
            Err(other) => panic!("{other:?}"),
        }
        done.0.send_modify(|done| *done += 1);
    }
    ledger.compare(&store.acquire().await.unwrap());
}

/// Takes the lead as often as it needs.
async fn taken_over(store: &Etcd) -> Loaded {
    let until = monotonic() + Duration::from_secs(60);
    loop {
        match store.acquire().await {
            Ok(loaded) => return loaded,
            Err(error) if error.is_retryable() && monotonic() < until => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn hasty(server: &Server, patience: Duration) -> Options {
    let mut options = server.options("c");
    options.call = Duration::from_millis(300);
    options.patience = patience;
    options
}

#[tokio::test]
async fn killed_in_the_middle_of_commits_etcd_loses_nothing_acknowledged() {
    for version in BOTH {
        let Some(mut server) = Server::start("killed_in_the_middle_of_commits", version, &[]) else { return };
        taken_over(&server.store("c")).await;
        // The one sends on until etcd is back; the other gives up and takes over.
        for patience in [Duration::from_secs(60), Duration::from_millis(400)] {
            let store = Etcd::new(hasty(&server, patience)).unwrap();
            let mut ledger =
                Ledger { records: taken_over(&store).await.records.into_iter().collect(), ..Ledger::default() };
            for kill in 0..3_u64 {
                let done = Done::default();
                let faults = async {
                    done.reach(20 + 40 * kill).await;
                    server.kill();
                    // Away for longer than the hasty one's patience: real time, in which nothing can be waited for.
                    tokio::time::sleep(Duration::from_millis(600)).await;
                    server.restart();
                };
                tokio::join!(faults, commit_through(&store, &mut ledger, &done, 150, Duration::from_secs(5)));
            }
            println!("{version:?}: {} unknown, {} of them had landed", ledger.unknown, ledger.landed_unseen);
            // Sending again settles it, if there is time to.
            let hasty = patience < Duration::from_secs(1);
            assert_eq!(ledger.unknown > 0, hasty, "{} were unknown", ledger.unknown);
        }
    }
}

#[tokio::test]
async fn a_standstill_makes_a_commit_unknown_in_time_and_is_settled_afterwards() {
    for version in BOTH {
        let Some(server) = Server::start("a_standstill_makes_a_commit_unknown", version, &[]) else { return };
        taken_over(&server.store("c")).await;
        for (patience, expected) in [(Duration::from_millis(700), true), (Duration::from_secs(30), false)] {
            let store = Etcd::new(hasty(&server, patience)).unwrap();
            let mut ledger =
                Ledger { records: taken_over(&store).await.records.into_iter().collect(), ..Ledger::default() };
            for pause in 0..4_u64 {
                let done = Done::default();
                let faults = async {
                    done.reach(10 + 20 * pause).await;
                    server.signal(Signal::STOP);
                    // As above.
                    tokio::time::sleep(Duration::from_millis(1_500)).await;
                    server.signal(Signal::CONT);
                };
                let most = patience + Duration::from_millis(500);
                tokio::join!(faults, commit_through(&store, &mut ledger, &done, 100, most));
            }
            println!("{version:?}: {} unknown, {} of them had landed", ledger.unknown, ledger.landed_unseen);
            assert_eq!(ledger.unknown > 0, expected, "{} were unknown", ledger.unknown);
        }
    }
}

#[tokio::test]
async fn a_used_up_quota_refuses_commits_until_there_is_space_again() {
    for version in BOTH {
        let quota = 8 << 20;
        let argument = format!("--quota-backend-bytes={quota}");
        let Some(server) = Server::start("a_used_up_quota_refuses_commits", version, &[&argument]) else { return };
        let mut options = server.options("c");
        options.quota = quota;
        let store = Etcd::new(options).unwrap();
        let mut ledger = Ledger::default();
        let (mut leader, _) = Leader::acquire(&store).await;
        assert!(!store.health().shedding);
        // Others write too, so that a commit may be the one that crosses the quota: applied, and yet refused.
        let others = futures_util::future::join_all((0..8).map(|n| {
            let server = &server;
            async move { while raw_put(server, &format!("/else/{n}"), vec![7; 100 << 10]).await.is_ok() {} }
        }));
        let fill = async {
            loop {
                let tx = leader.next(vec![put("b/fill", vec![1; 200 << 10]), put(format!("s/{:04}", leader.seq), "v")]);
                match store.commit(tx.clone()).await {
                    Ok(_) => {
                        ledger.count(&tx);
                        leader.seq = tx.seq;
                    }
                    Err(CommitError::Refused(RefusedReason::NoSpace)) => return,
                    Err(other) => panic!("{other:?}"),
                }
            }
        };
        tokio::join!(others, fill);
        assert!(store.health().shedding && store.health().open, "{:?}", store.health());
        let again = leader.commit(vec![put("s/more", "v")]).await;
        assert!(matches!(again, Err(CommitError::Refused(RefusedReason::NoSpace))), "{again:?}");
        assert!(again.unwrap_err().is_retryable());

        make_room(&server).await;
        store.measure().await;
        assert!(!store.health().shedding, "{:?}", store.health());
        leader.write(vec![put("s/more", "v")]).await;
        ledger.records.insert("s/more".into(), "v".into());
        ledger.records.retain(|key, _| key.starts_with(b"s/"));
        ledger.compare(&store.acquire().await.unwrap());
    }
}

/// What an operator does: compact, defragment, disarm.
async fn make_room(server: &Server) {
    let mut kv = KvClient::new(server.channel());
    let newest = kv.range(pb::RangeRequest { key: "x".into(), ..Default::default() }).await.unwrap().into_inner();
    let revision = newest.header.unwrap().revision;
    kv.compact(pb::CompactionRequest { revision, physical: true }).await.unwrap();
    let mut maintenance = server.maintenance();
    maintenance.defragment(pb::DefragmentRequest {}).await.unwrap();
    let alarms = |action: pb::alarm_request::AlarmAction, member_id| pb::AlarmRequest {
        action: action.into(),
        member_id,
        alarm: pb::AlarmType::Nospace.into(),
    };
    let raised = maintenance.alarm(alarms(pb::alarm_request::AlarmAction::Get, 0)).await.unwrap().into_inner();
    assert!(!raised.alarms.is_empty());
    for alarm in raised.alarms {
        let disarm = alarms(pb::alarm_request::AlarmAction::Deactivate, alarm.member_id);
        maintenance.alarm(disarm).await.unwrap();
    }
}

#[tokio::test]
async fn a_password_is_shown_where_etcd_asks_for_one() {
    for version in BOTH {
        // Tokens that end soon are renewed on the way.
        let ttl = ["--auth-token", "simple", "--auth-token-ttl", "1"];
        let more: &[&str] = if version == Version::New { &ttl } else { &ttl[..2] };
        let Some(server) = Server::start("a_password_is_shown", version, more) else { return };
        let store = |user: Option<(&str, &str)>| {
            let user = user.map(|(name, password)| User { name: name.into(), password: password.into() });
            Etcd::new(Options { user, ..server.options("c") }).unwrap()
        };
        // Before authentication is on, a name does no harm.
        store(Some(("root", "secret"))).acquire().await.unwrap();
        let mut auth = AuthClient::new(server.channel());
        auth.user_add(pb::AuthUserAddRequest { name: "root".into(), password: "secret".into() }).await.unwrap();
        auth.role_add(pb::AuthRoleAddRequest { name: "root".into() }).await.unwrap();
        auth.user_grant_role(pb::AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() }).await.unwrap();
        auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();

        let known = store(Some(("root", "secret")));
        let (mut leader, _) = Leader::acquire(&known).await;
        leader.write(vec![put("s/a", "1")]).await;
        if version == Version::New {
            // Looking whether the token has ended would prolong it.
            tokio::time::sleep(Duration::from_millis(2_500)).await;
        }
        leader.write(vec![put("s/a", "2")]).await;
        let wrong = store(Some(("root", "guess"))).acquire().await.unwrap_err();
        assert!(!wrong.is_retryable() && !format!("{wrong:?}").contains("guess"), "{wrong:?}");
    }
}

#[tokio::test]
async fn speaks_tls_where_etcd_does_and_shows_its_certificate() {
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name);
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    let key = || rcgen::KeyPair::generate().unwrap();
    let ca = |name: &str| {
        let (key, mut params) = (key(), rcgen::CertificateParams::default());
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        std::fs::write(path(name), params.self_signed(&key).unwrap().pem()).unwrap();
        rcgen::Issuer::new(params, key)
    };
    let (ours, _other) = (ca("ca.pem"), ca("other.pem"));
    for (name, usage) in
        [("server", rcgen::ExtendedKeyUsagePurpose::ServerAuth), ("client", rcgen::ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let (key, mut params) =
            (key(), rcgen::CertificateParams::new(["127.0.0.1".into(), "localhost".into()]).unwrap());
        params.extended_key_usages = vec![usage];
        std::fs::write(path(&format!("{name}.pem")), params.signed_by(&key, &ours).unwrap().pem()).unwrap();
        std::fs::write(path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    let (cert, key, trusted) = (text("server.pem"), text("server.key"), text("ca.pem"));
    let more = ["--cert-file", &cert, "--key-file", &key, "--trusted-ca-file", &trusted, "--client-cert-auth"];
    for version in BOTH {
        let Some(server) = Server::start_tls("speaks_tls_where_etcd_does", version, &more) else { return };
        let store = |ca: &str, pair: bool, patience: Duration| {
            let pair = pair.then(|| (path("client.pem"), path("client.key")));
            let tls = ClientTls::new(&path(ca), pair.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path())));
            Etcd::new(Options { tls: Some(tls), patience, ..server.options("c") }).unwrap()
        };
        let known = store("ca.pem", true, Duration::from_secs(60));
        let (mut leader, _) = Leader::acquire(&known).await;
        leader.write(vec![put("s/a", "1")]).await;
        for (ca, pair) in [("ca.pem", false), ("other.pem", true)] {
            let refused = store(ca, pair, Duration::from_millis(500)).acquire().await;
            assert!(matches!(refused, Err(OpenError::Etcd { .. })), "{refused:?}");
        }
        let plain = Etcd::new(server.options("c"));
        assert!(matches!(plain, Err(BadOptions::Endpoint(_))), "{plain:?}");
    }
}
