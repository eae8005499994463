// A mock of an OpenAI-compatible chat-completions API on loopback, so that the real opencode can be
// driven without an account. Base URL: http://127.0.0.1:PORT/v1
//
// Usage:  openai-api.mjs PORT LOGFILE
//
// The log has one JSON line per request of a conversation (`said` = every text of the user in it, in
// order, `results` = how many tool results) and one per end of an answer. A directive in the last
// prompt chooses the answer, the last one wins: "go [[slow:10]]". Without one, after a tool result and
// for requests without tools (titles, compaction) the answer is short.
//
//   slow:SECONDS   streamed text       bash:COMMAND   the bash tool       act   bash with `sh act.sh`
//   fail:STATUS    an error of that status, in words that nobody knows
import { appendFileSync } from 'node:fs';
import http from 'node:http';

const [port, logFile] = process.argv.slice(2);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const log = (line) => appendFileSync(logFile, `${JSON.stringify({ t: Date.now(), ...line })}\n`);
const textOf = ({ content }) => (typeof content === 'string' ? content : (content ?? []).map((part) => part.text ?? '').join('\n'));
let requests = 0;

http.createServer(async (req, res) => {
  let body = '';
  for await (const part of req) body += part;
  const id = ++requests;
  const json = (object) => res.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(object));
  if (req.method === 'GET') return json({ object: 'list', data: [] });

  const { model, messages, tools, stream } = JSON.parse(body);
  const users = messages.filter((message) => message.role === 'user').map(textOf);
  const results = messages.filter((message) => message.role === 'tool').length;
  const after = messages.at(-1).role === 'tool';
  const side = !tools?.length;
  if (!side) log({ id, model, said: users, results });
  res.on('close', () => side || log({ end: id, whole: res.writableFinished }));

  const usage = { prompt_tokens: 12345, completion_tokens: 55, total_tokens: 12400 };
  if (!stream) {
    return json({ id: `c${id}`, object: 'chat.completion', usage, choices: [{ index: 0, message: { role: 'assistant', content: 'Mock title' }, finish_reason: 'stop' }] });
  }
  const commands = [...(users.at(-1) ?? '').matchAll(/\[\[([a-z]+)(?::([^\]]*))?\]\]/g)];
  const [, kind, arg] = (!side && !after && commands.at(-1)) || [];
  if (kind === 'fail') return res.writeHead(Number(arg), { 'content-type': 'application/json' }).end('{"error":{"message":"The stars are against it"}}');
  res.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
  const chunk = (fields) => res.destroyed || res.write(`data: ${JSON.stringify({ id: `c${id}`, object: 'chat.completion.chunk', created: 1, model, ...fields })}\n\n`);
  const send = (delta, reason = null) => chunk({ choices: [{ index: 0, delta, finish_reason: reason }] });
  const end = (reason) => {
    send({}, reason);
    chunk({ choices: [], usage });
    res.destroyed || res.end('data: [DONE]\n\n');
  };
  if (kind === 'bash' || kind === 'act') {
    const command = kind === 'act' ? 'sh act.sh' : arg;
    const call = { name: 'bash', arguments: JSON.stringify({ command, description: 'Runs a mock command' }) };
    send({ role: 'assistant', tool_calls: [{ index: 0, id: `call_${id}`, type: 'function', function: call }] });
    return end('tool_calls');
  }
  for (let i = 0; kind === 'slow' && i < Number(arg) && !res.destroyed; i++) {
    send({ content: `line ${i} of the slow answer.\n\n` });
    await sleep(1000);
  }
  send({ content: side ? 'Mock title' : `Mock answer #${id}, nothing is left.` });
  end('stop');
}).listen(Number(port), '127.0.0.1', () => console.log('listening'));
