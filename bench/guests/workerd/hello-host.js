// What tests/guests/p3hello answers at `/`.
export default {
  async fetch(request) {
    return new Response(`hello from WASI 0.3 at ${request.headers.get("host")}\n`, { headers: { "content-type": "text/plain" } });
  },
};
