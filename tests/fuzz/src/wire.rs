//! Every message that crosses a socket: what decodes must encode to what decodes the same.

use hive_proto::{agent_v1, sidecar_v1, v1};
use prost::Message;

fn check<M: Message + Default>(bytes: &[u8]) {
    let Ok(message) = M::decode(bytes) else { return };
    // Compared as bytes: NaN is not equal to itself.
    let once = message.encode_to_vec();
    assert_eq!(once.len(), message.encoded_len());
    let again = M::decode(once.as_slice()).expect("what we write we can read");
    assert_eq!(again.encode_to_vec(), once, "another message than the one written");
}

macro_rules! messages {
    ($($package:literal $module:ident: $($name:ident)*;)*) => {
        /// Full names and their checks. `stable.rs` holds the list against the services.
        pub const MESSAGES: &[(&str, fn(&[u8]))] = &[$($((concat!($package, ".", stringify!($name)), check::<$module::$name>),)*)*];
    };
}

messages! {
    "hive.v1" v1:
        SubmitTaskRequest SubmitTaskResponse SubmitTasksRequest SubmitTasksResponse GetTaskRequest GetTaskResponse
        ListTasksRequest ListTasksResponse CancelTaskRequest CancelTaskResponse WatchTaskRequest WatchTaskResponse
        WatchTasksRequest WatchTasksResponse ProvideInputRequest ProvideInputResponse WaitTaskRequest WaitTaskResponse
        TailLogsRequest TailLogsResponse
        RegisterAgentRequest RegisterAgentResponse GetAgentRequest GetAgentResponse ListAgentsRequest ListAgentsResponse
        UpdateAgentRequest UpdateAgentResponse DrainAgentRequest DrainAgentResponse RemoveAgentRequest RemoveAgentResponse
        WatchAgentsRequest WatchAgentsResponse
        GetStatusRequest GetStatusResponse ListReplicasRequest ListReplicasResponse
        TransferLeadershipRequest TransferLeadershipResponse;
    "hive.sidecar.v1" sidecar_v1: SessionRequest SessionResponse PushLogsRequest PushLogsResponse;
    "hive.agent.v1" agent_v1: SessionRequest SessionResponse;
}

/// The first byte picks the message.
pub fn run(data: &[u8]) {
    let Some((pick, bytes)) = data.split_first() else { return };
    MESSAGES[usize::from(*pick) % MESSAGES.len()].1(bytes);
}
