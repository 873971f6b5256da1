import { render } from "preact";
import { App } from "./app.tsx";
import "./style/base.css";
import "./style/parts.css";
import "./style/pages.css";
import "./style/map.css";

const page = document.getElementById("page");
if (page !== null) render(<App />, page);
