//! Settings: order of sources, faults all at once, masking, printing.

use std::io::Write as _;

use clap::Parser as _;

use super::reader::Reader;
use super::*;

fn flags(args: &[&str]) -> Flags {
    Program::try_parse_from([&["hive-control-plane"], args].concat()).expect("flags").flags
}

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let home = ("HOME", "/srv/somebody");
    pairs.iter().chain([&home]).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("file");
    file.write_all(text.as_bytes()).expect("write");
    file
}

fn faults(flags: &Flags, variables: &[(&str, &str)]) -> Vec<Fault> {
    load(&Sources::new(flags, env(variables))).err().map(|faults| faults.0).unwrap_or_default()
}

#[test]
fn defaults_hold_and_agree_with_each_other() {
    let config = load(&Sources::new(&flags(&[]), env(&[]))).expect("no faults").config;
    assert_eq!(config.listen.to_string(), "127.0.0.1:7070");
    assert_eq!(config.ops_listen.to_string(), "127.0.0.1:7071");
    assert_eq!(config.data.to_string_lossy(), "/srv/somebody/.local/state/hive/control-plane");
    assert_eq!(config.limits.message_bytes, ByteSize(4 << 20));
    assert_eq!(config.namespaces.iter().map(ToString::to_string).collect::<Vec<_>>(), ["default"]);
}

#[test]
fn flag_wins_over_environment_over_file_over_default() {
    let file = file("listen = '127.0.0.1:1'\nops_listen = '127.0.0.1:2'\n[limits]\nlabels = 1\nslots = 2\n");
    let path = file.path().to_str().expect("path");
    let flags = flags(&["--config", path, "--listen", "127.0.0.1:5"]);
    let variables = [("HIVE_LISTEN", "127.0.0.1:4"), ("HIVE_LIMITS__LABELS", "7"), ("HIVE_LOG", "debug")];
    let loaded = load(&Sources::new(&flags, env(&variables))).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.config.listen.port(), 5);
    assert_eq!(loaded.config.ops_listen.port(), 2);
    assert_eq!((loaded.config.limits.labels, loaded.config.limits.slots), (7, 2));
    assert_eq!(loaded.config.log.filter, "debug");
    let printed = loaded.print(false);
    assert!(printed.contains("listen = \"127.0.0.1:5\" # --listen\n"), "{printed}");
    assert!(printed.contains("labels = 7 # HIVE_LIMITS__LABELS\n"), "{printed}");
    assert!(printed.contains(&format!("slots = 2 # file {path}\n")), "{printed}");
    assert!(!printed.contains("page"), "{printed}");
}

#[test]
fn all_faults_are_reported_with_field_value_and_source() {
    let file = file("listne = 'x'\nretention = 3\n[limits]\nlabels = -4\ncolour = 'red'\n[session]\nbeat = 'soon'\n");
    let path = file.path().to_str().expect("path");
    let flags = flags(&["--config", path, "--listen", "nowhere", "--ops-listen", "0.0.0.0:7071"]);
    let variables = [
        ("HIVE_LIMITS__SLOTS", "0"),
        ("HIVE_LIMITS__TYPO", "1"),
        ("HIVE_LOG__FILTER", "a=b=c"),
        ("HIVE_SESSION__BEAT_JITTER", "2.5"),
        // Other programs' variables share the prefix.
        ("HIVE_SERVER", "x"),
        ("HIVE_UPSTREAM__SERVER", "x"),
    ];
    let found: Vec<_> =
        faults(&flags, &variables).into_iter().map(|f| (f.field, f.value.unwrap_or_default(), f.source)).collect();
    let in_file = format!("file {path}");
    let expected = [
        ("listen", "\"nowhere\"", "--listen"),
        ("limits.labels", "-4", in_file.as_str()),
        ("limits.slots", "0", "HIVE_LIMITS__SLOTS"),
        ("session.beat", "\"soon\"", &in_file),
        ("session.beat_jitter", "2.5", "HIVE_SESSION__BEAT_JITTER"),
        ("ops_listen", "\"0.0.0.0:7071\"", "--ops-listen"),
        ("log.filter", "\"a=b=c\"", "HIVE_LOG__FILTER"),
        ("limits.colour", "", &in_file),
        ("limits.typo", "", "HIVE_LIMITS__TYPO"),
        ("listne", "", &in_file),
        ("retention", "", &in_file),
    ];
    let expected: Vec<_> =
        expected.iter().map(|(f, v, s)| ((*f).to_owned(), (*v).to_owned(), (*s).to_owned())).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_one_fault_among_others() {
    let found = faults(&flags(&["--config", "/no/such/file", "--listen", "x"]), &[]);
    assert_eq!(found.iter().map(|f| f.field.as_str()).collect::<Vec<_>>(), ["/no/such/file", "listen"]);
    let file = file("listen = [");
    let found = faults(&flags(&["--config", file.path().to_str().expect("path")]), &[]);
    assert!(found[0].problem.starts_with("is not TOML"), "{found:?}");
}

#[test]
fn plain_text_beyond_loopback_needs_insecure() {
    let open = ["--listen", "0.0.0.0:7070"];
    assert_eq!(faults(&flags(&open), &[])[0].field, "listen");
    assert!(faults(&flags(&[&open[..], &["--insecure"]].concat()), &[]).is_empty());
}

#[test]
fn certificates_are_given_whole_and_make_other_machines_welcome() {
    let fields = |args: &[&str]| -> Vec<_> { faults(&flags(args), &[]).into_iter().map(|f| f.field).collect() };
    assert!(fields(&["--listen", "0.0.0.0:7070", "--tls-cert", "c", "--tls-key", "k"]).is_empty());
    assert_eq!(fields(&["--tls-cert", "c"]), ["tls.key"]);
    assert_eq!(fields(&["--tls-key", "k"]), ["tls.cert"]);
    assert_eq!(fields(&["--tls-client-ca", "a"]), ["tls.cert"]);
    // The ops port never speaks TLS.
    assert_eq!(fields(&["--ops-listen", "0.0.0.0:7071", "--tls-cert", "c", "--tls-key", "k"]), ["ops_listen"]);
    let told = &faults(&flags(&["--listen", "0.0.0.0:7070"]), &[])[0].problem;
    assert!(told.contains("tls.cert") && told.contains("--insecure"), "{told}");
}

#[test]
fn the_status_says_how_the_port_is_protected() {
    use hive_proto::v1::TransportSecurity::{Insecure, Loopback, MutualTls, Tls};
    let pair = ["--tls-cert", "c", "--tls-key", "k"];
    let open = ["--listen", "0.0.0.0:7070"];
    for (args, expected) in [
        (vec![], Loopback),
        ([&open[..], &["--insecure"]].concat(), Insecure),
        ([&open[..], &pair].concat(), Tls),
        ([&open[..], &pair, &["--tls-client-ca", "a"]].concat(), MutualTls),
    ] {
        let loaded = load(&Sources::new(&flags(&args), env(&[]))).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(loaded.config.security(), expected, "{args:?}");
    }
}

#[test]
fn limits_that_contradict_each_other_are_faults() {
    let variables = [
        ("HIVE_LIMITS__PAYLOAD_BYTES", "3MiB"),
        ("HIVE_LIMITS__PAGE", "10"),
        ("HIVE_TRANSPORT__CONNECTION_WINDOW", "256KiB"),
        ("HIVE_SHUTDOWN__DRAIN", "1m"),
        ("HIVE_OPS_LISTEN", "127.0.0.1:7070"),
    ];
    let fields: Vec<_> = faults(&flags(&[]), &variables).into_iter().map(|f| f.field).collect();
    assert_eq!(
        fields,
        [
            "ops_listen",
            "limits.payload_bytes",
            "limits.page_default",
            "transport.connection_window",
            "shutdown.hard_stop"
        ]
    );
}

#[test]
fn what_one_task_may_hold_fits_the_store() {
    let fields = |variables: &[(&str, &str)]| -> Vec<_> {
        faults(&flags(&[]), variables).into_iter().map(|f| f.field).collect()
    };
    // Taken in, it would be refused by the store, with all that shares its transaction.
    assert_eq!(fields(&[("HIVE_LIMITS__PAYLOAD_BYTES", "1MiB")]), ["limits.payload_bytes"]);
    assert_eq!(fields(&[("HIVE_LIMITS__LABELS", "1000")]), ["limits.payload_bytes"]);
    assert!(fields(&[("HIVE_LIMITS__PAYLOAD_BYTES", "400KiB")]).is_empty());
}

#[test]
fn what_is_printed_reads_back_the_same() {
    let variables =
        [("HIVE_SESSION__BEAT", "1m30s"), ("HIVE_NAMESPACES", "default,red"), ("HIVE_STORE__BALLAST", "12345")];
    let printed = load(&Sources::new(&flags(&[]), env(&variables))).expect("no faults").print(true);
    assert!(printed.contains("beat = \"90s\" # HIVE_SESSION__BEAT\n"), "{printed}");
    let file = file(&printed);
    let again = load(&Sources::new(&flags(&["--config", file.path().to_str().expect("path")]), env(&[])));
    let values =
        |text: &str| text.lines().map(|line| line.split(" # ").next().unwrap_or("").to_owned()).collect::<Vec<_>>();
    assert_eq!(values(&again.unwrap_or_else(|e| panic!("{e}")).print(true)), values(&printed));
}

#[test]
fn secrets_are_masked_wherever_they_go() {
    let mut broken = Vec::new();
    let variables = env(&[("HIVE_STORE__PASSWORD", "hunter2"), ("HIVE_STORE__TOKEN", "[1, 2]")]);
    let figment = Sources::new(&flags(&[]), variables).figment(&mut broken);
    let mut reader = Reader::new(&figment, broken);
    let password: Option<Secret> = reader.take_optional("store.password", "");
    let token: Option<Secret> = reader.take_optional("store.token", "");
    assert_eq!(password.as_ref().map(Secret::reveal), Some("hunter2"));
    assert!(token.is_none());
    let (given, faults) = reader.finish();
    let config = load(&Sources::new(&flags(&[]), env(&[]))).expect("no faults").config;
    let printed = Loaded { config, given }.print(true);
    assert!(printed.contains("password = \"***\" # HIVE_STORE__PASSWORD"), "{printed}");
    assert_eq!(faults[0].value.as_deref(), Some("\"***\""));
    assert_eq!(format!("{password:?}"), "Some(***)");
}

#[test]
fn etcd_is_chosen_whole_and_in_plain_text_on_this_machine_only() {
    let given = |more: &[(&str, &str)]| {
        let own = [("HIVE_STORE__KIND", "etcd"), ("HIVE_ETCD__ENDPOINTS", "http://localhost:1, http://[::1]:2")];
        let variables: Vec<_> = own.into_iter().filter(|(k, _)| more.iter().all(|(o, _)| k != o)).collect();
        let variables = [&variables[..], more].concat();
        let faults: Vec<_> = faults(&flags(&[]), &variables).into_iter().map(|fault| fault.field).collect();
        faults.join(" ")
    };
    assert_eq!(given(&[]), "");
    assert!(given(&[("HIVE_STORE__KIND", "paper")]).starts_with("store.kind"));
    assert_eq!(given(&[("HIVE_STORE__KIND", "embedded")]), "etcd.endpoints");
    assert_eq!(given(&[("HIVE_ETCD__ENDPOINTS", "http://10.0.0.1:1")]), "etcd.endpoints");
    assert_eq!(given(&[("HIVE_ETCD__ENDPOINTS", "http://10.0.0.1:1"), ("HIVE_INSECURE", "true")]), "");
    assert_eq!(given(&[("HIVE_ETCD__ENDPOINTS", "https://10.0.0.1:1")]), "etcd.ca");
    assert_eq!(given(&[("HIVE_ETCD__ENDPOINTS", "https://10.0.0.1:1"), ("HIVE_ETCD__CA", "ca.pem")]), "");
    assert_eq!(given(&[("HIVE_ETCD__USER", "hive")]), "etcd.password");
    assert_eq!(given(&[("HIVE_ETCD__CERT", "c.pem")]), "etcd.key");
    let alone = faults(&flags(&[]), &[("HIVE_STORE__KIND", "etcd")]);
    assert!(alone[0].problem.contains("is missing"), "{alone:?}");
}

#[test]
fn the_page_equals_the_settings() {
    crate::testing::same_as_file("docs/settings.md", &page());
}
