//! What a node says while it belongs to no cluster yet: what it waits for, and what the administrator must type.

use replication::Waiting;
use tokio::sync::watch;

use crate::notice::Notice;

/// The code of the one answer there is.
const BELONGS_NOWHERE: &str = "HF-3109";

/// What `name` says as long as it waits.
pub(crate) fn notice(name: &str, waiting: watch::Receiver<Option<Waiting>>) -> Notice {
    let name = name.to_owned();
    Notice::new(BELONGS_NOWHERE, move || {
        let waiting = waiting.borrow().clone();
        match waiting {
            Some(Waiting { text, command: Some(command) }) => {
                format!("{name} belongs to no cluster yet: {text}; type: {command}")
            }
            Some(Waiting { text, command: None }) => format!("{name} belongs to no cluster yet: {text}"),
            None => format!("{name} is starting; ask again in a moment"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_belongs_nowhere_says_what_to_type() {
        let waiting = Waiting {
            text: "it waits to be added".into(),
            command: Some("holdfast member add node-4=10.0.0.4:7610".into()),
        };
        let notice = notice("node-4", watch::Sender::new(Some(waiting)).subscribe());
        let text = notice.text();
        assert!(text.starts_with("HF-3109: node-4 belongs to no cluster yet"), "{text}");
        assert!(text.ends_with("type: holdfast member add node-4=10.0.0.4:7610"), "{text}");
    }
}
