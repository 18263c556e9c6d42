//! Mutual TLS between the real programs, with certificates of `hive certs`: who gets in, who is told what,
//! and renewal while work runs.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use hive_sdk::Client;
use hive_sdk::client::TaskSpec;
use hive_sdk::proto::AgentPhase;

use crate::harness::{AgentDef, CONTROL_PLANE, LONG, Rig, eventually, hive, soon, unix_seconds};
use crate::programs::Gate;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[tokio::test]
async fn a_task_goes_through_over_mutual_tls() {
    let mut rig = Rig::secured(&["sidecar-1"]).await;
    rig.sidecar("sidecar-1", &[AgentDef::script("cmd-1", &["shout"], "echo heard >&2; tr a-z A-Z")]).await;
    let id = rig.submit(TaskSpec::new("shout").payload("hello")).await.id();
    assert_eq!(rig.result(id).await.1, "HELLO");
    // Output comes over another connection of the sidecar's.
    let logs = rig.hive(&["logs", &id.to_string()]).await.expect(0);
    assert!(logs.out.contains("heard") || logs.err.contains("heard"), "{logs:?}");
    let status = rig.hive(&["status"]).await.expect(0);
    assert!(status.out.contains("1 sidecars connected") && status.out.contains("mutual TLS"), "{status:?}");
}

#[tokio::test]
async fn who_may_not_in_is_told_why() {
    let rig = Rig::secured(&["sidecar-1"]).await;
    let strangers = rig.path().join("strangers");
    rig.certs(&strangers, &[]).await;
    let endpoint = rig.endpoint();
    let ca = rig.cert("ca.pem");
    let (cert, key) = (strangers.join("client.pem"), strangers.join("client.key"));
    let other = strangers.join("ca.pem");
    late(&rig.cert(""), "late");
    let (late, late_key) = (rig.cert("late.pem"), rig.cert("late.key"));
    for (args, told) in [
        (&["--ca", text(&ca)][..], "the server wants a client certificate"),
        (&["--ca", text(&ca), "--cert", text(&cert), "--key", text(&key)], "is it of the CA that the server trusts?"),
        (&["--ca", text(&ca), "--cert", text(&late), "--key", text(&late_key)], "it has expired"),
        (&["--ca", text(&other), "--cert", text(&cert), "--key", text(&key)], "certificate is not of the CA given"),
    ] {
        let refused = hive(&[&["--server", &endpoint], args, &["status"]].concat()).await.expect(5);
        assert!(refused.err.contains(told) && refused.err.contains("next: check --ca"), "{refused:?}");
    }
    let plain = endpoint.replace("https://", "http://");
    let refused = hive(&["--server", &plain, "--deadline", "1s", "status"]).await;
    assert!(refused.code != 0 && refused.err.contains("this port speaks TLS: use https://"), "{refused:?}");
    let usage = hive(&["--server", &endpoint, "status"]).await.expect(2);
    assert!(usage.err.contains("--ca"), "{usage:?}");
    let refused = rig.hive_as("sidecar-sidecar-1", &["status"]).await.expect(1);
    assert!(refused.err.contains("IDENTITY_NOT_ALLOWED"), "{refused:?}");

    // And a TLS client at a port that speaks none.
    let open = Rig::new().await;
    let https = open.endpoint().replace("http://", "https://");
    let refused = hive(&["--server", &https, "--ca", text(&ca), "status"]).await.expect(5);
    assert!(refused.err.contains("if it serves plain text, use http://"), "{refused:?}");
}

#[tokio::test]
async fn a_sidecar_speaks_for_itself_alone() {
    let mut rig = Rig::secured(&["sidecar-1", "sidecar-2"]).await;
    let agent = [AgentDef::script("cmd-2", &["shout"], "tr a-z A-Z")];
    // It shows the certificate of another.
    let own: Vec<_> = ["pem", "key"].map(|end| rig.cert(&format!("sidecar-sidecar-2.{end}"))).into();
    for (path, end) in own.iter().zip(["pem", "key"]) {
        std::fs::rename(path, path.with_extension(format!("{end}.kept"))).expect("set aside");
        std::fs::copy(rig.cert(&format!("sidecar-sidecar-1.{end}")), path).expect("copy");
    }
    rig.declare_sidecar("sidecar-2", &agent);
    rig.start_sidecar("sidecar-2");
    soon("it is refused", || rig.sidecar_process("sidecar-2").log().contains("IDENTITY_NOT_ALLOWED")).await;
    assert!(rig.control_plane().log().contains("a sidecar is refused by its certificate"));
    assert!(rig.client().get_agent("cmd-2").await.is_err(), "nothing it said was taken in");
    // Its own certificate, put in place under the running sidecar, is shown at the next dial.
    for (path, end) in own.iter().zip(["pem", "key"]) {
        std::fs::rename(path.with_extension(format!("{end}.kept")), path).expect("put back");
    }
    rig.phase("cmd-2", AgentPhase::Ready).await;
}

#[tokio::test]
async fn certificates_are_renewed_under_running_work() {
    let mut rig = Rig::secured(&["sidecar-1"]).await;
    let gate = Gate::new(rig.path());
    rig.sidecar("sidecar-1", &[gate.agent("cmd-1")]).await;
    let id = rig.submit(TaskSpec::new("gated")).await.id();
    gate.begun(1).await;

    // Everything anew, by another CA: whoever trusts only that one sees only what is new.
    let next = rig.path().join("next");
    rig.certs(&next, &[]).await;
    for name in ["server.key", "server.pem", "ca.pem"] {
        std::fs::rename(next.join(name), rig.cert(&format!("{name}.new"))).expect("move");
    }
    std::fs::copy(rig.cert("ca.pem.new"), next.join("ca.pem")).expect("copy");
    for name in ["server.key", "server.pem", "ca.pem"] {
        std::fs::rename(rig.cert(&format!("{name}.new")), rig.cert(name)).expect("put in place");
    }
    let renewed = Client::builder()
        .endpoint(rig.endpoint())
        .ca(next.join("ca.pem"))
        .certificate(next.join("client.pem"), next.join("client.key"))
        .timeout(Duration::from_secs(1));
    eventually("a new connection sees the new certificate", LONG, || async {
        renewed.clone().connect_lazy().expect("an endpoint").get(id).await.map(drop).map_err(|e| e.to_string())
    })
    .await;
    assert!(rig.control_plane().log().contains("certificates renewed"));

    gate.open();
    let client = renewed.timeout(LONG).connect_lazy().expect("an endpoint");
    let task = client.wait(id, LONG).await.expect("the task's end");
    assert_eq!((task.attempt, gate.runs()), (1, 1), "{task:?}");
    let log = rig.sidecar_process("sidecar-1").log();
    assert!(!log.contains("the stream ended") && !log.contains("cannot reach"), "its stream was dropped:\n{log}");
}

#[tokio::test]
async fn certs_overwrites_nothing_and_keys_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let out = text(folder.path());
    let none = hive(&["certs", "server", "--out", out]).await.expect(1);
    assert!(none.err.contains("hive certs init"), "{none:?}");
    hive(&["certs", "init", "--out", out]).await.expect(0);
    let made = hive(&["certs", "client", "ada", "--out", out]).await.expect(0);
    assert_eq!(made.out, format!("{out}/ada.pem\n{out}/ada.key\n"));
    let before = std::fs::read(folder.path().join("ada.pem")).unwrap();
    for again in [&["certs", "init", "--out", out][..], &["certs", "client", "ada", "--out", out]] {
        let refused = hive(again).await.expect(1);
        assert!(refused.err.contains("exists: nothing is overwritten"), "{refused:?}");
    }
    assert_eq!(std::fs::read(folder.path().join("ada.pem")).unwrap(), before);
    for key in ["ca.key", "ada.key"] {
        let mode = std::fs::metadata(folder.path().join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    hive(&["certs", "sidecar", "No", "--out", out]).await.expect(2);
    hive(&["certs", "init", "--out", out, "--trust-domain", "a/b"]).await.expect(2);
}

#[tokio::test]
async fn beyond_this_machine_it_is_tls_or_insecure() {
    let rig = Rig::folder(&[]);
    let mut command = std::process::Command::new(CONTROL_PLANE);
    rig.mark(&mut command);
    command.arg("--data").arg(rig.data()).args(["--listen", "0.0.0.0:0", "--ops-listen", "127.0.0.1:0"]);
    let ended = command.output().expect("run");
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{told}");
    for word in ["listen", "tls.cert", "--insecure"] {
        assert!(told.contains(word), "{told}");
    }
}

/// A client's certificate of that CA that has expired: what `hive certs` does not make.
fn late(folder: &Path, name: &str) {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
    let key = KeyPair::from_pem(&std::fs::read_to_string(folder.join("ca.key")).unwrap()).unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.distinguished_name = rcgen::DistinguishedName::new();
    ca.distinguished_name.push(DnType::CommonName, "Hive development CA of hive.local");
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::URI("spiffe://hive.local/client/late".try_into().unwrap())];
    let now = UNIX_EPOCH + Duration::from_secs(unix_seconds());
    params.not_before = (now - Duration::from_secs(7_200)).into();
    params.not_after = (now - Duration::from_secs(3_600)).into();
    let own = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&own, &Issuer::new(ca, key)).unwrap();
    std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
    std::fs::write(folder.join(format!("{name}.key")), own.serialize_pem()).unwrap();
}
