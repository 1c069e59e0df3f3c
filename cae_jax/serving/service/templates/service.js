// Asks the service; what goes wrong comes back as an Error of one line.

import { byId, complain } from "./display.js";

let token = sessionStorage.getItem("token") ?? "";
let asking = null; // the answer to a prompt that stands open
let declined = false;

// The answer to a request. Of a service that wants a token it is asked for; a call that nobody
// made by hand (own = false) does not ask again what was declined.
export async function ask(path, options = {}, own = true) {
  for (;;) {
    const sent = token;
    const headers = { ...options.headers, ...(sent ? { Authorization: `Bearer ${sent}` } : {}) };
    let answer;
    try {
      answer = await fetch(path, { ...options, headers });
    } catch {
      throw new Error("The service cannot be reached: it was stopped, or the network is lost.");
    }
    if (answer.ok) return answer;
    if (answer.status !== 401) throw new Error(await said(answer));
    if (token !== sent) continue; // another call was given it meanwhile
    if (declined && !own) throw new Error("The service asks for a token.");
    asking ??= prompt(sent !== "").finally(() => (asking = null));
    if (!(await asking)) throw new Error("The service asks for a token, and none was given.");
  }
}

async function said(answer) {
  let line = "";
  try {
    const told = await answer.json();
    line = told.error ?? told.detail;
  } catch {
    // no JSON: the status says all there is
  }
  if (typeof line !== "string" || line === "") line = answer.statusText || "an error";
  const wait = answer.headers.get("Retry-After");
  const again = answer.status === 503 ? `: the service is busy, try again${wait ? ` in ${wait} s` : ""}` : "";
  return `${answer.status}: ${line}${again}`;
}

// Asks for the token; true once there is one, false where it is declined.
function prompt(refused) {
  complain("token-said", refused ? "That token was refused." : "");
  byId("token").showModal();
  return new Promise((resolve) => {
    const done = (given) => {
      byId("token-form").onsubmit = byId("token-cancel").onclick = byId("token").oncancel = null;
      byId("token").close();
      byId("token-text").value = "";
      token = given;
      declined = given === "";
      if (given) sessionStorage.setItem("token", given);
      else sessionStorage.removeItem("token");
      resolve(given !== "");
    };
    byId("token-form").onsubmit = (event) => {
      event.preventDefault();
      done(byId("token-text").value.trim());
    };
    byId("token-cancel").onclick = byId("token").oncancel = () => done("");
  });
}
