//! A sidecar whose certificate names another than it says it is.

use hive_proto::sidecar_v1::sidecar_message::Kind;
use hive_proto::sidecar_v1::sidecar_service_client::SidecarServiceClient;
use hive_proto::tls::{ClientTls, endpoint};

use super::explained;
use super::peer::{Peer, frame, hello};
use crate::harness::Rig;

#[tokio::test]
async fn no_hello_speaks_for_another_not_even_a_later_one() {
    let rig = Rig::secured(&["a"]).await;
    let (cert, key) = (rig.cert("sidecar-a.pem"), rig.cert("sidecar-a.key"));
    let tls = ClientTls::new(&rig.cert("ca.pem"), Some((&cert, &key)));
    let endpoint = endpoint(&rig.endpoint()).expect("an endpoint");
    let dial = || async { SidecarServiceClient::new(tls.connect(&endpoint).await.expect("connect")) };

    for other in [hello("b", 1, 0, 1), namesake()] {
        let refused = Peer::open_over(dial().await, [frame([Kind::Hello(other)])]).await.err().expect("a refusal");
        explained(&refused, "IDENTITY_NOT_ALLOWED");
    }
    let mut own = Peer::open_over(dial().await, [frame([Kind::Hello(hello("a", 1, 0, 1))])]).await.expect("a session");
    own.welcome().await;
    assert!(own.say([Kind::Hello(hello("b", 1, 0, 2))]).await);
    explained(&own.end().await.expect_err("a refusal"), "IDENTITY_NOT_ALLOWED");
    assert!(rig.client().get_agent("b").await.is_err(), "nothing it said for another was taken in");
}

/// Of the same id, in another namespace.
fn namesake() -> hive_proto::sidecar_v1::Hello {
    hive_proto::sidecar_v1::Hello { namespace: "red".to_owned(), ..hello("a", 1, 0, 1) }
}
