// The same 13 bytes, word for word, as guests/hello-js.
export default {
  async fetch() {
    return new Response("Hello, world!", { headers: { "content-type": "text/plain" } });
  },
};
