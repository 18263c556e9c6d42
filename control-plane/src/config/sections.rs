//! Every setting: path, meaning, default and bounds; then what must hold between them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hive_core::id::Namespace;
use hive_proto::v1::TransportSecurity;

use super::etcd::{Etcd, StoreKind};
use super::reader::Reader;
use super::source::Sources;
use super::value::ByteSize;
use crate::api::check;

const MS: fn(u64) -> Duration = Duration::from_millis;
const S: fn(u64) -> Duration = Duration::from_secs;
const DAY: u64 = 86_400;

/// All settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address for clients and sidecars.
    pub listen: SocketAddr,
    /// Address for health and metrics.
    pub ops_listen: SocketAddr,
    /// Folder of the store.
    pub data: PathBuf,
    /// Plain text beyond loopback is allowed.
    pub insecure: bool,
    /// Reflection is answered.
    pub reflection: bool,
    /// End of standard input stops the server.
    pub stop_on_stdin_eof: bool,
    /// Written once the server is ready.
    pub ready_file: Option<PathBuf>,
    /// Tenants that exist.
    pub namespaces: Vec<Namespace>,
    /// Logging.
    pub log: Log,
    /// What one request, client or namespace may use.
    pub limits: Limits,
    /// Certificates of the main port; plain text without.
    pub tls: Option<TlsFiles>,
    /// Looking after them.
    pub tls_watch: Tls,
    /// HTTP/2 and TCP.
    pub transport: Transport,
    /// Sidecar sessions.
    pub session: Session,
    /// What a task has unless it says otherwise.
    pub task: TaskDefaults,
    /// How long ended tasks are kept.
    pub retention: Retention,
    /// Watches.
    pub watch: Watch,
    /// Which store.
    pub store_kind: StoreKind,
    /// The embedded store.
    pub store: StoreLimits,
    /// etcd, if that is the store.
    pub etcd: Etcd,
    /// Stopping.
    pub shutdown: Shutdown,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For eyes.
    Text,
    /// An object per line.
    Json,
}

macro_rules! section {
    ($(#[$doc:meta])* $name:ident at $prefix:literal { $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr, $bounds:expr, $about:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name {
            $(#[doc = $about] $(#[$field_doc])* pub $field: $type,)*
        }

        impl $name {
            fn read(reader: &mut Reader<'_>) -> Self {
                Self { $($field: reader.take_in(concat!($prefix, ".", stringify!($field)), $about, $default, $bounds),)* }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

/// Logging.
#[derive(Clone, Debug)]
pub struct Log {
    /// Form of each line.
    pub format: LogFormat,
    /// Which events; see tracing's `EnvFilter`.
    pub filter: String,
}

section! {
    /// What one request, client or namespace may use. Beyond it a call is refused with its reason.
    Limits at "limits" {
        message_bytes: ByteSize = ByteSize::mib(4), ByteSize::kib(64)..=ByteSize::mib(64), "Size of one message, in and out.";
        payload_bytes: ByteSize = ByteSize::kib(256), ByteSize(0)..=ByteSize::mib(16), "Size of a task's payload or result.";
        labels: u32 = 32, 0..=1_000, "Labels of an agent or task.";
        capabilities: u32 = 32, 0..=1_000, "Capabilities of an agent, or asked for by a task.";
        slots: u32 = 100, 1..=10_000, "Slots of one agent.";
        page_default: u32 = 50, 1..=10_000, "Items of a page if the caller does not say.";
        page: u32 = 1_000, 1..=10_000, "Items of a page at most.";
        submit_batch: u32 = 100, 1..=1_000, "Tasks of one SubmitTasks.";
        pending_tasks: u64 = 1_000_000, 1..=100_000_000, "Unfinished tasks of one namespace.";
        id_ahead: Duration = S(60), S(1)..=S(3_600), "How far a task id's time may lie ahead of cluster time.";
        connections: u32 = 20_000, 1..=1_000_000, "Connections open at once; at most the file descriptors allowed less 512.";
        connections_per_address: u32 = 1_000, 1..=1_000_000, "Connections of one IP address beyond loopback.";
        pending_handshakes: u32 = 512, 1..=100_000, "Connections that have not shown their protocol yet.";
        handshake: Duration = S(5), MS(50)..=S(120), "Time a connection has to show its protocol, agreeing on TLS included.";
        calls: u32 = 8_192, 1..=1_000_000, "Calls with one answer in progress at once, over all connections.";
        call_deadline: Duration = S(60), S(1)..=S(3_600), "Deadline of a call with one answer that brings none.";
        watches: u32 = 4_096, 1..=1_000_000, "Watches, waits and log streams open at once.";
    }
}

/// Certificates, as paths of PEM files.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Our certificate, with what leads to its CA.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Whoever calls must have a certificate of this CA.
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    fn read(r: &mut Reader<'_>) -> Option<Self> {
        let cert = r.take_optional(
            "tls.cert",
            "Certificate (PEM, with intermediates) shown on `listen`; without one it speaks plain text.",
        );
        let key = r.take_optional("tls.key", "Its private key (PEM).");
        let client_ca: Option<PathBuf> = r.take_optional(
            "tls.client_ca",
            "CA (PEM) of the certificates that clients and sidecars must show; without one nobody is asked.",
        );
        match (cert, key) {
            (Some(cert), Some(key)) => Some(Self { cert, key, client_ca }),
            (Some(_), None) => r.lack("tls.key", "is missing: tls.cert needs its private key"),
            (None, Some(_)) => r.lack("tls.cert", "is missing: tls.key belongs to a certificate"),
            (None, None) if client_ca.is_some() => r.lack(
                "tls.cert",
                "is missing: clients can be asked for certificates only over TLS, so set tls.cert and tls.key",
            ),
            (None, None) => None,
        }
    }
}

section! {
    /// Certificates on disk.
    Tls at "tls" {
        poll: Duration = S(5), MS(100)..=S(3_600), "Time between two looks at the certificate files; renewed ones are used by new connections.";
    }
}

section! {
    /// HTTP/2 and TCP.
    Transport at "transport" {
        streams_per_connection: u32 = 256, 1..=65_536, "Calls in progress on one connection.";
        keepalive: Duration = S(10), MS(100)..=S(3_600), "Silence after which a peer is asked for a sign of life.";
        keepalive_timeout: Duration = S(5), MS(100)..=S(600), "Time it has to answer.";
        stream_window: ByteSize = ByteSize::kib(256), ByteSize::kib(64)..=ByteSize::mib(64), "Bytes a peer may send on one call before we have read them.";
        connection_window: ByteSize = ByteSize::mib(4), ByteSize::kib(256)..=ByteSize::mib(256), "The same for a whole connection; at least four times the former, so that one stalled call starves no other.";
    }
}

section! {
    /// Sidecar sessions.
    Session at "session" {
        beat: Duration = S(5), MS(100)..=S(600), "Shortest time between beats.";
        beats_per_second: u32 = 2_000, 1..=1_000_000, "Beats the server wants to receive per second; with more sidecars the time between them grows.";
        beat_jitter: f64 = 0.2, 0.0..=0.9, "Share by which the time between beats varies either way.";
        suspect_beats: u32 = 2, 1..=100, "Beats missed until an agent is SUSPECT.";
        lost: Duration = S(30), MS(200)..=S(DAY), "Shortest time out of contact until an agent is LOST, and the grace after a takeover.";
        lost_beats: u32 = 6, 1..=1_000, "The same in beats; the longer of the two holds.";
        kill: Duration = S(20), MS(200)..=S(DAY), "Shortest time out of contact until a sidecar stops its copies under policy `stop`.";
        kill_beats: u32 = 4, 1..=1_000, "The same in beats; the longer of the two holds.";
        kill_margin: Duration = S(5), MS(0)..=S(600), "Added to it before such a task is assigned elsewhere.";
        hello: Duration = S(5), MS(50)..=S(120), "Time a session has to say hello.";
        receipt: Duration = S(3), MS(50)..=S(120), "Time after which an assignment without a receipt is offered again.";
    }
}

section! {
    /// What a task has unless it says otherwise.
    TaskDefaults at "task" {
        max_failures: u32 = 3, 1..=1_000, "Failed attempts until the task fails.";
        backoff: Duration = S(1), MS(0)..=S(DAY), "Wait before the second attempt; doubles from failure to failure, full jitter.";
        backoff_cap: Duration = S(60), MS(0)..=S(DAY), "Longest wait.";
        attempt_timeout: Duration = S(600), MS(100)..=S(30 * DAY), "Time one attempt may take.";
        queue_deadline: Duration = S(DAY), MS(100)..=S(365 * DAY), "Time a task may wait for an agent at a stretch before it is EXPIRED.";
        cancel_grace: Duration = S(10), MS(0)..=S(3_600), "Time between asking to cancel and KILL.";
        input_wait: Duration = S(DAY), MS(100)..=S(365 * DAY), "Time a task waits for input; its slot is held, its timeout paused.";
    }
}

section! {
    /// How long ended tasks are kept; whichever limit is reached first.
    Retention at "retention" {
        age: Duration = S(DAY), S(60)..=S(365 * DAY), "Time after the end.";
        tasks: u64 = 200_000, 1..=100_000_000, "Ended tasks of a namespace.";
        bytes: ByteSize = ByteSize::mib(256), ByteSize::mib(1)..=ByteSize::mib(1 << 20), "Bytes of a namespace.";
        at_least: Duration = S(60), S(60)..=S(365 * DAY), "Time after the end that is kept whatever the other limits say.";
    }
}

section! {
    /// Watches.
    Watch at "watch" {
        bookmark: Duration = S(30), MS(100)..=S(3_600), "Longest silence; then a bookmark is sent.";
        buffer: u32 = 1_024, 1..=1_000_000, "Events kept for a slow reader; beyond them it is told to resync.";
    }
}

section! {
    /// The embedded store.
    StoreLimits at "store" {
        min_free: ByteSize = ByteSize::mib(512), ByteSize(0)..=ByteSize::mib(1 << 20), "Free disk space below which no task is accepted.";
        ballast: ByteSize = ByteSize::mib(64), ByteSize(0)..=ByteSize::mib(1 << 20), "File kept to be released when the disk is full.";
    }
}

section! {
    /// Stopping.
    Shutdown at "shutdown" {
        drain: Duration = S(30), MS(0)..=S(3_600), "Time for calls in progress and orderly goodbyes.";
        hard_stop: Duration = S(40), MS(100)..=S(3_700), "Time after which the process ends whatever is left.";
    }
}

impl Limits {
    /// The part that bounds the content of messages.
    #[must_use]
    pub fn content(&self) -> crate::api::check::Limits {
        let size = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        crate::api::check::Limits {
            payload: size(self.payload_bytes.0),
            labels: size(u64::from(self.labels)),
            capabilities: size(u64::from(self.capabilities)),
            slots: self.slots,
        }
    }

    /// Bytes of the largest task that these limits let in, roughly.
    fn largest_task(&self) -> u64 {
        let entry = |texts: usize| texts as u64 + 8;
        // Its own labels, and those it asks of an agent.
        let labels = 2 * u64::from(self.labels) * entry(check::NAME + check::VALUE);
        self.payload_bytes.0.saturating_add(labels + u64::from(self.capabilities) * entry(check::NAME))
    }
}

/// Bytes of a task that fit a transaction of the store besides a batch that is almost full.
const MOST_TASK: u64 = 468 << 10;

const NO_HOME: &str = "$XDG_STATE_HOME";

impl Config {
    pub(super) fn read(r: &mut Reader<'_>, sources: &Sources) -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            listen: r.take("listen", "Address for clients and sidecars (gRPC).", local(7070)),
            ops_listen: r.take("ops_listen", "Address for health and metrics (plain).", local(7071)),
            data: r.take("data", "Folder of the store.", default_data(sources)),
            insecure: r.take("insecure", "Allow plain text beyond this machine.", false),
            reflection: r.take("reflection", "Answer gRPC reflection.", true),
            stop_on_stdin_eof: r.take("stop_on_stdin_eof", "Stop gracefully when standard input ends.", false),
            ready_file: r.take_optional(
                "ready_file",
                "File written once the server is ready: JSON with `listen`, `ops_listen`, `pid`.",
            ),
            namespaces: r.take("namespaces", "Tenants that exist.", Namespace::parse("default").into_iter().collect()),
            log: Log {
                format: r.take("log.format", "`text` or `json`.", LogFormat::Text),
                filter: r.take(
                    "log.filter",
                    "Which events are logged, such as `info,hive_control_plane=debug`.",
                    // A peer that resets calls could write thousands of h2's warnings a second.
                    "info,h2=error".to_owned(),
                ),
            },
            limits: Limits::read(r),
            tls: TlsFiles::read(r),
            tls_watch: Tls::read(r),
            transport: Transport::read(r),
            session: Session::read(r),
            task: TaskDefaults::read(r),
            retention: Retention::read(r),
            watch: Watch::read(r),
            store_kind: r.take(
                "store.kind",
                "`embedded` keeps state in the folder `data`; `etcd` keeps it in etcd: one control plane at a time, a newer one takes over from an older.",
                StoreKind::Embedded,
            ),
            store: StoreLimits::read(r),
            etcd: Etcd::read(r),
            shutdown: Shutdown::read(r),
        }
    }

    /// How the main port is protected.
    #[must_use]
    pub fn security(&self) -> TransportSecurity {
        match &self.tls {
            Some(tls) if tls.client_ca.is_some() => TransportSecurity::MutualTls,
            Some(_) => TransportSecurity::Tls,
            None if self.listen.ip().is_loopback() => TransportSecurity::Loopback,
            None => TransportSecurity::Insecure,
        }
    }

    /// What must hold between settings.
    pub(super) fn check(&self, r: &mut Reader<'_>) {
        if !self.listen.ip().is_loopback() && self.tls.is_none() && !self.insecure {
            r.refuse(
                "listen",
                "is reachable from other machines, in plain text: set tls.cert and tls.key (`hive certs` makes them), use a loopback address, or say --insecure",
            );
        }
        if !self.ops_listen.ip().is_loopback() && !self.insecure {
            r.refuse(
                "ops_listen",
                "is reachable from other machines, and always plain text: use a loopback address, or say --insecure",
            );
        }
        if self.listen == self.ops_listen && self.listen.port() != 0 {
            r.refuse("ops_listen", "must differ from listen");
        }
        if self.data.starts_with(NO_HOME) {
            r.refuse("data", "has no default because neither XDG_STATE_HOME nor HOME is set: say --data");
        }
        self.etcd.check(self.store_kind, self.insecure, r);
        if self.namespaces.is_empty() {
            r.refuse("namespaces", "must name at least one");
        }
        if let Err(error) = crate::telemetry::filter(&self.log.filter) {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            r.refuse("log.filter", format!("is no filter: {cause}"));
        }
        let Limits { payload_bytes, message_bytes, page, page_default, .. } = self.limits;
        if payload_bytes.0.saturating_mul(2) > message_bytes.0 {
            r.refuse(
                "limits.payload_bytes",
                "must be at most half of limits.message_bytes: a task carries payload and result",
            );
        } else if self.limits.largest_task() > MOST_TASK {
            r.refuse(
                "limits.payload_bytes",
                "with limits.labels and limits.capabilities must keep a task below 468 KiB: it is stored in one transaction",
            );
        }
        if page_default > page {
            r.refuse("limits.page_default", "must be at most limits.page");
        }
        if self.transport.connection_window.0 < self.transport.stream_window.0.saturating_mul(4) {
            r.refuse("transport.connection_window", "must be at least four times transport.stream_window");
        }
        if self.retention.at_least > self.retention.age {
            r.refuse("retention.at_least", "must be at most retention.age");
        }
        if self.shutdown.hard_stop < self.shutdown.drain {
            r.refuse("shutdown.hard_stop", "must be at least shutdown.drain");
        }
    }
}

fn default_data(sources: &Sources) -> PathBuf {
    let state = sources.variable("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.or_else(|| Some(PathBuf::from(sources.variable("HOME")?).join(".local/state")));
    state.unwrap_or_else(|| PathBuf::from(NO_HOME)).join("hive/control-plane")
}
