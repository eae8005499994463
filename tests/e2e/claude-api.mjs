// A mock of the Anthropic Messages API on loopback, so that the real Claude Code can be driven
// without an account.
//
// Usage:  claude-api.mjs PORT LOGFILE PROJECT
//
// The log has one JSON line per request of a conversation (`said` = every text of the user in it, in
// order, `results` = how many tool results) and one per end of an answer. A directive in the last
// prompt chooses the answer, the last one wins: "@@slow:10 go". Without one, after a tool result and
// for side calls (no tools) the answer is short.
//
//   slow:SECONDS   streamed text       bashask   a tool that asks in manual mode
//   act            Bash with `sh act.sh`
//   lim5h          429, a 5-hour limit (shown as one only with a subscriber's token)
import { appendFileSync } from 'node:fs';
import http from 'node:http';

const [port, logFile, project] = process.argv.slice(2);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const log = (line) => appendFileSync(logFile, `${JSON.stringify({ t: Date.now(), ...line })}\n`);
const blocks = (message) => (typeof message.content === 'string' ? [{ type: 'text', text: message.content }] : message.content ?? []);
let requests = 0;

http.createServer(async (req, res) => {
  let body = '';
  for await (const part of req) body += part;
  const id = ++requests;
  const reply = (status, object, headers = {}) => {
    res.writeHead(status, { 'content-type': 'application/json', 'request-id': `req_mock${id}`, ...headers });
    res.end(JSON.stringify(object));
  };
  if (req.method !== 'POST') return reply(req.url === '/' ? 200 : 404, {});
  if (/count_tokens/.test(req.url)) return reply(200, { input_tokens: Math.ceil(body.length / 4) });
  if (!/\/v1\/messages/.test(req.url)) return reply(404, {});

  const asked = JSON.parse(body);
  const users = asked.messages.filter((message) => message.role === 'user');
  const results = users.flatMap(blocks).filter((block) => block.type === 'tool_result').length;
  const last = blocks(users.at(-1));
  const after = last.some((block) => block.type === 'tool_result');
  const prompt = last.filter((block) => block.type === 'text').map((block) => block.text).join('\n');
  const side = !asked.tools?.length;
  if (!side) log({ id, model: asked.model, said: users.flatMap(blocks).flatMap((block) => block.text ?? []), results });
  res.on('close', () => side || log({ end: id, whole: res.writableFinished }));

  const commands = [...prompt.matchAll(/@@([a-z0-9_]+)(?::(\S+))?/g)];
  const [, kind, arg] = (!side && !after && commands.at(-1)) || [];
  if (kind === 'lim5h') {
    const [head, reset] = ['anthropic-ratelimit-unified-', Math.floor(Date.now() / 1000) + 3 * 3600];
    return reply(429, { type: 'error', error: { type: 'rate_limit_error', message: "This request would exceed your account's rate limit. Please try again later." }, request_id: `req_mock${id}` }, {
      [`${head}status`]: 'rejected', [`${head}representative-claim`]: 'five_hour', [`${head}reset`]: `${reset}`,
      [`${head}fallback`]: 'available', [`${head}overage-status`]: 'rejected',
      [`${head}overage-disabled-reason`]: 'org_level_disabled', 'retry-after': `${3 * 3600}`,
    });
  }
  const title = /json_schema|"title"/.test(JSON.stringify(asked.output_config ?? asked.output_format ?? ''));
  const answer = side ? (title ? '{"title":"Mock title"}' : 'summary ok') : `OK done #${id}`;
  if (asked.stream !== true) {
    return reply(200, { id: `msg_${id}`, type: 'message', role: 'assistant', model: asked.model,
      content: [{ type: 'text', text: answer }], stop_reason: 'end_turn', stop_sequence: null, usage: { input_tokens: 10, output_tokens: 2 } });
  }

  res.writeHead(200, { 'content-type': 'text/event-stream', 'request-id': `req_mock${id}` });
  const event = (type, fields) => res.destroyed || res.write(`event: ${type}\ndata: ${JSON.stringify({ type, ...fields })}\n\n`);
  const delta = (fields) => event('content_block_delta', { index: 0, delta: fields });
  event('message_start', { message: { id: `msg_mock${id}`, type: 'message', role: 'assistant', model: asked.model, content: [], stop_reason: null,
    stop_sequence: null, usage: { input_tokens: 1200, output_tokens: 1, cache_creation_input_tokens: 0, cache_read_input_tokens: 0 } } });
  const end = (reason) => {
    event('content_block_stop', { index: 0 });
    event('message_delta', { delta: { stop_reason: reason, stop_sequence: null }, usage: { output_tokens: 30 } });
    event('message_stop', {});
    res.end();
  };
  const tool = (name, input) => {
    event('content_block_start', { index: 0, content_block: { type: 'tool_use', id: `toolu_mock${id}`, name, input: {} } });
    delta({ type: 'input_json_delta', partial_json: JSON.stringify(input) });
    end('tool_use');
  };
  if (kind === 'act') return tool('Bash', { command: 'sh act.sh', description: 'Do its part' });
  if (kind === 'bashask') return tool('Bash', { command: `touch ${project}/asked.txt && mkdir -p ${project}/asked`, description: 'Create a file' });
  event('content_block_start', { index: 0, content_block: { type: 'text', text: '' } });
  for (let i = 0; kind === 'slow' && i < Number(arg) * 2 && !res.destroyed; i++) {
    delta({ type: 'text_delta', text: `word ${i} of the slow answer goes on${i % 8 === 7 ? '.\n' : ' '}` });
    await sleep(500);
  }
  delta({ type: 'text_delta', text: answer });
  end('end_turn');
}).listen(Number(port), '127.0.0.1', () => console.log('listening'));
