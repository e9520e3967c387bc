// A JSON API that keeps notes. It is an ordinary fetch handler, as on other clouds and in browsers' service
// workers: Request, Response, URL, fetch and streams are all there, Node's modules are not.
import { increment } from "wasi:keyvalue/atomics";
import { open } from "wasi:keyvalue/store";

export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    if (pathname === "/") return hello(env);
    if (pathname === "/notes") return list();

    const [, id] = pathname.match(/^\/notes\/([\w-]{1,64})$/) ?? [];
    if (id) return note(request, id);
    return refuse(404, `there is nothing at ${pathname}`);
  },
};

// Opened when a request needs it, never at the top of the file: that part runs once, while the app is built,
// where there is no bucket yet.
const notes = () => open("notes");

function hello(env) {
  // Raised by the bucket itself: of two visits at the same moment none is lost. Numbers are BigInts here.
  const visits = increment(open("visits"), "/", 1n);
  return Response.json({ greeting: env.GREETING ?? "Hello", visits: Number(visits), notes: "/notes" });
}

function list() {
  const ids = [];
  let cursor;
  do {
    // Keys come in pages; the last one has no cursor.
    const page = notes().listKeys(cursor);
    ids.push(...page.keys);
    cursor = page.cursor;
  } while (cursor !== undefined);
  return Response.json(ids.sort());
}

async function note(request, id) {
  switch (request.method) {
    case "GET": {
      const value = notes().get(id); // bytes; undefined when there is no such key
      return value ? new Response(value, { headers: { "content-type": "application/json" } }) : refuse(404, `no note ${id}`);
    }
    case "PUT": {
      // Parsed before it is stored, so that whoever reads it back gets JSON.
      const value = await request.json().catch(() => undefined);
      if (value === undefined) return refuse(400, "the body is no JSON");
      notes().set(id, new TextEncoder().encode(JSON.stringify(value)));
      console.log(`stored ${id}`); // `firm logs -f` shows it
      return new Response(null, { status: 204 });
    }
    case "DELETE":
      notes().delete(id);
      return new Response(null, { status: 204 });
    default:
      return refuse(405, `${request.method} is not for notes`);
  }
}

const refuse = (status, error) => Response.json({ error }, { status });
