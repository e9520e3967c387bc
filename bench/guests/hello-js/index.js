// The same 13 bytes as the Rust component, word for word as guests/workerd/hello.js.
export default {
  async fetch() {
    return new Response("Hello, world!", { headers: { "content-type": "text/plain" } });
  },
};
