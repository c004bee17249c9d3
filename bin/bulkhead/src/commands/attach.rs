//! `bulkhead attach`.

use super::connect;
use crate::cli::AttachOptions;
use crate::client::{Wanted, terminal_size};
use crate::report::Outcome;
use crate::state::Root;
use bulkhead_control::Request;

/// Connects to a running container.
pub(super) fn run(root: &Root, options: &AttachOptions) -> Outcome {
    let (_, record, client) = connect(root, &options.name.name)?;
    let wanted = Wanted {
        stdin: record.interactive && !options.no_stdin,
        terminal: record.terminal,
        proxy_signals: options.sig_proxy,
    };
    let attachment = client.attach(wanted, Request::Attach)?;
    let number = attachment.number();
    client.answer(number)?;
    if let (true, Some((rows, columns))) = (record.terminal, terminal_size()) {
        client.send(
            Request::Resize {
                attached: Some(number),
                rows,
                columns,
            },
            &[],
        )?;
    }
    client.run(attachment)
}
