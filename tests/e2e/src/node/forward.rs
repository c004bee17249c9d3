//! Port forwarding, as `kubectl port-forward` asks containerd for it: a
//! WebSocket with a channel of data and one of errors for the port.
//! Kubernetes, pkg/kubelet/cri/streaming/portforward.

use std::net::TcpStream;

use k8s_cri::v1::PortForwardRequest;
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

use super::Pod;

const PROTOCOL: &str = "v4.channel.k8s.io";
const DATA: u8 = 0;

/// A forwarded connection.
#[derive(Debug)]
pub struct Forwarded {
    socket: WebSocket<TcpStream>,
}

impl Pod<'_> {
    /// Connects to a port of the pod by way of containerd.
    pub async fn forward(&self, port: u16) -> Forwarded {
        let request = PortForwardRequest {
            pod_sandbox_id: self.id.clone(),
            port: vec![port.into()],
        };
        let response = self.node.runtime.clone().port_forward(request).await;
        let url = response.unwrap().into_inner().url;
        let address = url.trim_start_matches("http://").split('/').next().unwrap();
        let connection = self.node.connect(address);
        let mut request = url.replacen("http", "ws", 1).into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", PROTOCOL.parse().unwrap());
        let (socket, _) = tungstenite::client(request, connection).unwrap();
        let mut forwarded = Forwarded { socket };
        for channel in 0..2 {
            let [low, high] = port.to_le_bytes();
            assert_eq!(forwarded.message(), [channel, low, high]);
        }
        forwarded
    }
}

impl Forwarded {
    fn message(&mut self) -> Vec<u8> {
        loop {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => return bytes.to_vec(),
                Ok(Message::Close(_)) | Err(_) => return Vec::new(),
                Ok(_) => {}
            }
        }
    }

    /// Sends to the port.
    pub fn send(&mut self, text: &str) {
        let bytes: Vec<u8> = std::iter::once(DATA).chain(text.bytes()).collect();
        self.socket.send(Message::binary(bytes)).unwrap();
    }

    /// What the port answers until it closes the connection, or the error.
    pub fn answer(mut self) -> Result<String, String> {
        let mut answer = String::new();
        loop {
            let message = self.message();
            let Some((channel, bytes)) = message.split_first() else {
                return Ok(answer);
            };
            let text = String::from_utf8_lossy(bytes);
            match *channel {
                DATA => answer.push_str(&text),
                _ if bytes.is_empty() => {}
                _ => return Err(text.into_owned()),
            }
        }
    }
}
