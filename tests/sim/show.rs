//! Frames and phases in a few words, for the timeline.

use hive_core::record::Phase;
use hive_proto::sidecar_v1::{self as pb, control_message::Kind as Down, sidecar_message::Kind as Up};
use hive_sidecar::attempt::AttemptKey;

fn key(attempt: &Option<pb::AttemptRef>) -> String {
    let key = attempt.as_ref().and_then(|a| AttemptKey::try_from(a).ok());
    // The end of the id is its random part: enough to tell tasks apart.
    key.map_or_else(|| "?".into(), |key| key.to_string()[24..].to_owned())
}

fn keys<'a>(attempts: impl Iterator<Item = &'a Option<pb::AttemptRef>>) -> String {
    attempts.map(key).collect::<Vec<_>>().join(" ")
}

pub(crate) fn phase(phase: &Phase) -> &'static str {
    match phase {
        Phase::Pending { .. } => "pending",
        Phase::Assigned(_) => "assigned",
        Phase::InputRequired(..) => "input required",
        Phase::Ended { .. } => "ended",
    }
}

pub(crate) fn up(frame: &pb::SessionRequest) -> String {
    let words = frame.messages.iter().filter_map(|message| message.kind.as_ref()).map(|kind| match kind {
        Up::Hello(hello) => format!(
            "hello generation {} connection {} running [{}] finished [{}]",
            hello.generation,
            hello.connection,
            keys(hello.running.iter().map(|r| &r.attempt)),
            keys(hello.finished.iter().map(|r| &r.attempt)),
        ),
        Up::Credit(credit) => {
            let free: Vec<_> = credit.agents.iter().map(|a| format!("{}:{}", a.agent_id, a.free_slots)).collect();
            format!("credit seen {} {}", credit.assigns_seen, free.join(" "))
        }
        Up::Receipt(receipt) => format!("receipt {}", receipt.assigns_seen),
        Up::Started(started) => format!("started {}", key(&started.attempt)),
        Up::Heartbeat(beat) => format!(
            "beat {} seen {} running [{}] finished [{}]",
            beat.beat,
            beat.assigns_seen,
            keys(beat.running.iter().map(|r| &r.attempt)),
            keys(beat.finished.iter().map(|r| &r.attempt)),
        ),
        Up::Progress(progress) => format!("progress {}", key(&progress.attempt)),
        Up::Declined(declined) => format!("declined {} {:?}", key(&declined.attempt), declined.reason()),
        Up::AttemptLost(lost) => format!("lost {}", key(&lost.attempt)),
        Up::InputRequired(asked) => format!("asks {} number {}", key(&asked.attempt), asked.number),
        Up::Result(result) => format!("result {} {:?}", key(&result.attempt), result.outcome()),
        Up::Goodbye(_) => "goodbye".into(),
    });
    words.collect::<Vec<_>>().join(", ")
}

pub(crate) fn down(frame: &pb::SessionResponse) -> String {
    let words = frame.messages.iter().filter_map(|message| message.kind.as_ref()).map(|kind| match kind {
        Down::Welcome(welcome) => {
            let over: Vec<_> = welcome.verdicts.iter().filter(|v| v.release.is_some()).collect();
            format!("welcome generation {} over [{}]", welcome.generation, keys(over.iter().map(|v| &v.attempt)))
        }
        Down::Assign(assign) => format!("assign {} {} to {}", assign.number, key(&assign.attempt), assign.agent_id),
        Down::ResultAck(ack) => {
            let kind = ack.release.as_ref().map(pb::Release::kind);
            format!("release {} {kind:?}", key(&ack.attempt))
        }
        Down::Cancel(cancel) => format!("cancel {} {:?}", key(&cancel.attempt), cancel.reason()),
        Down::Input(input) => format!("input {} number {}", key(&input.attempt), input.number),
        Down::Drain(drain) => format!("drain {} {:?}", drain.agent_id, drain.desired_state()),
        Down::HeartbeatAck(ack) => format!("ack {}", ack.beat),
        Down::TailLogs(_) => "tail".into(),
        Down::Resync(_) => "resync".into(),
        Down::Goaway(_) => "goaway".into(),
    });
    words.collect::<Vec<_>>().join(", ")
}
